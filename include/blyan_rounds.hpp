// blyan_rounds.hpp - proof of learning, for C++17: rounds, attestations, judgement, contributions, rewards.
// Part of blyan.hpp, with its rules.

#ifndef BLYAN_ROUNDS_HPP
#define BLYAN_ROUNDS_HPP

#include "blyan.hpp"

#include <map>

namespace blyan {

namespace evolve {

// The new blocks of a candidate by the names of their slots.
using candidate_blocks = std::map<std::string, hash>;

} // namespace evolve

namespace detail {

// Points into the blocks.
inline std::vector<blyan_slot_block> slot_blocks(const evolve::candidate_blocks &blocks)
{
    std::vector<blyan_slot_block> raw;
    for (const auto &[slot, block] : blocks)
        raw.push_back({text(slot), block});
    return raw;
}

} // namespace detail

namespace evolve {

// Opens a round: commits to a split that nobody may know.
inline hash open_round(chain &chain, const key &key, const hash &policy,
                       const std::vector<std::uint32_t> &split)
{
    return detail::block([&](auto *out) {
        return blyan_round_open(chain.get(), key.get(), &policy, split.data(), split.size(), out);
    });
}
// Claims a candidate without showing it.
inline hash claim(chain &chain, const key &key, const hash &round, const candidate_blocks &blocks)
{
    const auto raw = detail::slot_blocks(blocks);
    return detail::block([&](auto *out) {
        return blyan_round_claim(chain.get(), key.get(), &round, raw.data(), raw.size(), out);
    });
}
// The claims of a round, each with its key.
inline std::vector<std::pair<hash, public_key>> claims(const chain &chain, const hash &round)
{
    const auto list = detail::make<detail::handle<blyan_claims, blyan_claims_free>>(
        [&](auto *out) { return blyan_round_claims(chain.get(), &round, out); });
    std::vector<std::pair<hash, public_key>> claims;
    for (std::size_t i = 0; i < blyan_claims_len(list.get()); i++) {
        claims.emplace_back();
        detail::check(blyan_claims_get(list.get(), i, &claims.back().first, &claims.back().second));
    }
    return claims;
}
inline hash close_round(chain &chain, const key &key, const hash &round)
{
    return detail::block(
        [&](auto *out) { return blyan_round_close(chain.get(), key.get(), &round, out); });
}
// Shows a candidate that was claimed.
inline hash propose(chain &chain, const key &key, const hash &claim, const candidate_blocks &blocks)
{
    const auto raw = detail::slot_blocks(blocks);
    return detail::block([&](auto *out) {
        return blyan_round_propose(chain.get(), key.get(), &claim, raw.data(), raw.size(), out);
    });
}
// Shows the split, which judges the candidates that are there.
inline hash reveal(chain &chain, const key &key, const hash &round, const std::vector<std::uint32_t> &split)
{
    return detail::block([&](auto *out) {
        return blyan_round_reveal(chain.get(), key.get(), &round, split.data(), split.size(), out);
    });
}
// Names what a candidate changes.
inline hash candidate_root(const hash &base, const candidate_blocks &blocks)
{
    const auto raw = detail::slot_blocks(blocks);
    return detail::block(
        [&](auto *out) { return blyan_candidate_root(&base, raw.data(), raw.size(), out); });
}
// What a claim commits to a candidate with, which shows the salt.
inline hash claim_commitment(const hash &salt, const public_key &author, const hash &root)
{
    return detail::block(
        [&](auto *out) { return blyan_claim_commitment(&salt, &author, &root, out); });
}
// What a round commits to its split with, by the payload hash of the tokens; the reveal shows the salt.
inline hash split_commitment(const hash &salt, const hash &tokens)
{
    return detail::block([&](auto *out) { return blyan_split_commitment(&salt, &tokens, out); });
}
// The model that candidates of one base make of it.
inline snapshot snapshot_of(const chain &chain, const std::vector<hash> &candidates)
{
    blyan_snapshot *made = nullptr;
    detail::check(
        blyan_snapshot_of_candidates(chain.get(), candidates.data(), candidates.size(), &made));
    return snapshot(made);
}

// Measures candidates, in one model, or each and then the good ones together; gives the attestations.
inline std::vector<hash> attest(chain &chain, const key &key, const hash &reveal,
                                const std::optional<std::vector<hash>> &candidates = std::nullopt,
                                const evaluate_options &options = {})
{
    const blyan_hash *some = nullptr;
    std::size_t some_len = 0;
    detail::some(candidates, some, some_len);
    return detail::make_hashes([&](auto *out) {
        blyan_status status = BLYAN_STATUS_OK;
        options.watch([&](const blyan_evaluate_options *raw) {
            return status = blyan_attest(chain.get(), key.get(), &reveal, some, some_len, raw, out);
        });
        return status;
    });
}

// An attestation that does not recompute.
struct lie {
    hash attestation;
    public_key key;
    std::optional<hash> accusation;
};

// What an audit found.
class audit_report {
public:
    explicit audit_report(blyan_audit_report *taken) : handle_(taken) {}
    blyan_audit_info info() const
    {
        return detail::describe<blyan_audit_info>([&](auto *out, std::size_t size) {
            return blyan_audit_report_describe(handle_.get(), out, size);
        });
    }
    std::vector<lie> lies() const
    {
        std::vector<lie> lies;
        for (std::size_t i = 0; i < info().lies_len; i++) {
            const auto raw = detail::describe<blyan_lie>([&](auto *out, std::size_t size) {
                return blyan_audit_report_lie(handle_.get(), i, out, size);
            });
            lies.push_back({raw.attestation, raw.key, detail::optional(raw.accusation, raw.has_accusation)});
        }
        return lies;
    }
    // Appends an accusation of one of the lies.
    hash accuse(std::size_t lie, chain &chain, const hash &policy, const key &key) const
    {
        return detail::block([&](auto *out) {
            return blyan_audit_report_accuse(handle_.get(), lie, chain.get(), &policy, key.get(), out);
        });
    }
    std::string json() const
    {
        return detail::make_text(
            [&](auto *out) { return blyan_audit_report_json(handle_.get(), out); });
    }

private:
    detail::handle<blyan_audit_report, blyan_audit_report_free> handle_;
};

// Computes the attestations under a policy again; with a key, each lie is accused.
inline audit_report audit(chain &chain, const hash &policy, const key *key = nullptr,
                          const evaluate_options &options = {})
{
    blyan_audit_report *found = nullptr;
    options.watch([&](const blyan_evaluate_options *raw) {
        return blyan_audit(chain.get(), &policy, key == nullptr ? nullptr : key->get(), raw, &found);
    });
    return audit_report(found);
}

struct round_state {
    hash round, base;
    std::optional<hash> previous;
    public_key owner;
    std::string refused, message; // empty if something can be accepted
    std::size_t closings, reveals, accepted;
};
struct candidate_state {
    hash candidate, round, claim, base;
    public_key author;
    bool accepted;
    std::string refused, message; // empty if it is accepted
    double base_loss, loss;       // on the split; NaN if it is not accepted
    std::size_t validators;
};

// What the blocks of a policy come to.
class judgement {
public:
    explicit judgement(blyan_judgement *taken) : handle_(taken) {}
    blyan_judgement_info info() const
    {
        return detail::describe<blyan_judgement_info>([&](auto *out, std::size_t size) {
            return blyan_judgement_describe(handle_.get(), out, size);
        });
    }
    std::vector<round_state> rounds() const
    {
        std::vector<round_state> rounds;
        for (std::size_t i = 0; i < info().rounds_len; i++) {
            const auto raw = detail::describe<blyan_round_state>([&](auto *out, std::size_t size) {
                return blyan_judgement_round(handle_.get(), i, out, size);
            });
            rounds.push_back({raw.round, raw.base, detail::optional(raw.previous, raw.has_previous),
                              raw.owner, detail::copy(raw.refused), detail::copy(raw.message),
                              raw.closings_len, raw.reveals_len, raw.accepted_len});
        }
        return rounds;
    }
    std::vector<candidate_state> candidates() const
    {
        std::vector<candidate_state> candidates;
        for (std::size_t i = 0; i < info().candidates_len; i++) {
            const auto raw = detail::describe<blyan_candidate_state>([&](auto *out, std::size_t size) {
                return blyan_judgement_candidate(handle_.get(), i, out, size);
            });
            candidates.push_back({raw.candidate, raw.round, raw.claim, raw.base, raw.author,
                                  raw.accepted != 0, detail::copy(raw.refused), detail::copy(raw.message),
                                  raw.base_loss, raw.loss, raw.validators_len});
        }
        return candidates;
    }
    // The model that the fork choice takes, or would take without a round and those after it.
    blyan_chosen chosen(const std::optional<hash> &without = std::nullopt) const
    {
        return detail::describe<blyan_chosen>([&](auto *out, std::size_t size) {
            return blyan_judgement_chosen(handle_.get(), without ? &*without : nullptr, out, size);
        });
    }
    std::string json() const
    {
        return detail::make_text([&](auto *out) { return blyan_judgement_json(handle_.get(), out); });
    }
    // Appends the chosen model and those on the way to it.
    hash publish(chain &chain) const
    {
        return detail::block(
            [&](auto *out) { return blyan_judgement_publish(handle_.get(), chain.get(), out); });
    }
    // The same, and names it: the model and its release.
    std::pair<hash, hash> release(chain &chain, std::string_view name, std::string_view version) const
    {
        const blyan_str named = detail::text(name), versioned = detail::text(version);
        std::pair<hash, hash> made;
        detail::check(blyan_judgement_release(handle_.get(), chain.get(), named.data, named.len,
                                              versioned.data, versioned.len, &made.first, &made.second));
        return made;
    }

private:
    detail::handle<blyan_judgement, blyan_judgement_free> handle_;
};

inline judgement judge(const chain &chain, const hash &policy)
{
    blyan_judgement *found = nullptr;
    detail::check(blyan_judge(chain.get(), &policy, &found));
    return judgement(found);
}

// Takes the next step with new blocks in a round.
inline blyan_contribution contribute(chain &chain, const key &key, const hash &round,
                                     const candidate_blocks &blocks, bool dry_run = false)
{
    const auto raw = detail::slot_blocks(blocks);
    return detail::describe<blyan_contribution>([&](auto *out, std::size_t size) {
        return blyan_contribute(chain.get(), key.get(), &round, raw.data(), raw.size(), dry_run, out, size);
    });
}

// Weights to extract: all or some rows of a slot's.
struct piece {
    std::string source, target; // target empty: the same slot
    std::optional<std::vector<std::size_t>> rows;
};
// Where to take them from: a checkpoint, or a model of a chain.
struct extract_options {
    std::string checkpoint; // empty: source and model
    const chain *source = nullptr;
    std::optional<hash> model;
    std::int32_t dtype = BLYAN_DTYPE_KEEP;
    bool dry_run = false;
    std::vector<std::string> ignore_config_keys;
    const blyan::cancel *cancel = nullptr;
};
struct extracted_block {
    std::string slot;
    hash block, payload;
    std::uint64_t payload_bytes;
    bool new_block, new_payload;
};
struct extract_report : blyan_extract_info {
    std::vector<extracted_block> blocks; // one for each piece
};

inline extract_report extract(chain &chain, const hash &target, const std::vector<piece> &pieces,
                              const extract_options &options)
{
    static const std::size_t no_row = 0;
    std::vector<blyan_extract_piece> taken;
    for (const piece &piece : pieces) {
        blyan_extract_piece raw{};
        raw.source = detail::text(piece.source);
        if (!piece.target.empty())
            raw.target = detail::text(piece.target);
        if (piece.rows) {
            raw.rows = piece.rows->empty() ? &no_row : piece.rows->data();
            raw.rows_len = piece.rows->size();
        }
        taken.push_back(raw);
    }
    const std::vector<blyan_str> keys = detail::texts(options.ignore_config_keys);
    blyan_extract_options raw;
    detail::check(blyan_extract_options_init(&raw, sizeof raw));
    if (!options.checkpoint.empty())
        raw.checkpoint = detail::text(options.checkpoint);
    raw.source = options.source == nullptr ? nullptr : options.source->get();
    raw.model = options.model ? &*options.model : nullptr;
    raw.ignore_config_keys = keys.data();
    raw.ignore_config_keys_len = keys.size();
    raw.cancel = options.cancel == nullptr ? nullptr : options.cancel->get();
    raw.dtype = options.dtype;
    raw.dry_run = options.dry_run;
    const auto found =
        detail::make<detail::handle<blyan_extract_report, blyan_extract_report_free>>(
            [&](auto *out) {
                return blyan_extract(chain.get(), &target, taken.data(), taken.size(), &raw, out);
            });
    extract_report report{};
    static_cast<blyan_extract_info &>(report) =
        detail::describe<blyan_extract_info>([&](auto *out, std::size_t size) {
            return blyan_extract_report_describe(found.get(), out, size);
        });
    for (std::size_t i = 0; i < report.blocks_len; i++) {
        const auto block = detail::describe<blyan_extracted_block>([&](auto *out, std::size_t size) {
            return blyan_extract_report_block(found.get(), i, out, size);
        });
        report.blocks.push_back({detail::copy(block.slot), block.block, block.payload, block.payload_bytes,
                                 block.new_block != 0, block.new_payload != 0});
    }
    return report;
}

// A receipt as a block; publishes its prompt and its text.
inline hash append_receipt(chain &chain, const receipt &receipt)
{
    return detail::block([&](auto *out) { return blyan_receipt_append(receipt.get(), chain.get(), out); });
}
// Names what a receipt's run read; more receipts of one run count once.
inline hash run_of(const receipt &receipt)
{
    return detail::block([&](auto *out) { return blyan_receipt_run(receipt.get(), out); });
}
// Runs a receipt again: the tokens that went through each block, as a JSON object.
inline std::string uses_json(const chain &chain, const receipt &receipt, const model_options &options = {})
{
    const blyan_model_options raw = options.raw();
    return detail::make_text(
        [&](auto *out) { return blyan_receipt_uses_json(receipt.get(), chain.get(), &raw, out); });
}
// Runs receipt blocks again as a validator, and says what they used.
inline hash record_usage(chain &chain, const hash &policy, const hash &reveal,
                         const std::vector<hash> &receipts, const key &key, const model_options &options = {})
{
    const blyan_model_options raw = options.raw();
    return detail::block([&](auto *out) {
        return blyan_record_usage(chain.get(), &policy, &reveal, receipts.data(), receipts.size(), key.get(),
                                  &raw, out);
    });
}
// The receipts that a record is wrong about.
inline std::vector<hash> audit_usage(const chain &chain, const hash &record,
                                     const model_options &options = {})
{
    const blyan_model_options raw = options.raw();
    return detail::make_hashes(
        [&](auto *out) { return blyan_audit_usage(chain.get(), &record, &raw, out); });
}
// Runs that count under a policy, as a JSON array.
inline std::string recorded_uses_json(const chain &chain, const hash &policy)
{
    return detail::make_text(
        [&](auto *out) { return blyan_recorded_uses_json(chain.get(), &policy, out); });
}

using share = blyan_share;

// What rewards are computed from.
class ledger {
public:
    ledger(const chain &chain, const hash &policy)
        : handle_(detail::make<handle>(
              [&](auto *out) { return blyan_ledger_open(chain.get(), &policy, out); }))
    {
    }
    std::uint64_t periods() const noexcept { return blyan_ledger_periods(handle_.get()); }
    // How a pool is divided among the keys whose contributions were used in a period.
    std::vector<share> rewards(std::uint64_t period, std::uint64_t pool) const
    {
        const auto list = detail::make<detail::handle<blyan_shares, blyan_shares_free>>(
            [&](auto *out) { return blyan_ledger_rewards(handle_.get(), period, pool, out); });
        std::vector<share> shares;
        for (std::size_t i = 0; i < blyan_shares_len(list.get()); i++)
            shares.push_back(detail::describe<blyan_share>([&](auto *out, std::size_t size) {
                return blyan_shares_get(list.get(), i, out, size);
            }));
        return shares;
    }
    // What each contribution counts in a period, as a JSON array.
    std::string credits_json(std::uint64_t period) const
    {
        return detail::make_text(
            [&](auto *out) { return blyan_ledger_credits_json(handle_.get(), period, out); });
    }

private:
    using handle = detail::handle<blyan_ledger, blyan_ledger_free>;
    handle handle_;
};

} // namespace evolve

} // namespace blyan

#endif // BLYAN_ROUNDS_HPP
