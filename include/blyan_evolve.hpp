// blyan_evolve.hpp - how models get better, for C++17: growth, deltas, keys, policies, datasets, evaluation.
// Part of blyan.hpp, with its rules; docs/evolution.md tells what evidence is for.

#ifndef BLYAN_EVOLVE_HPP
#define BLYAN_EVOLVE_HPP

#include "blyan.hpp"

namespace blyan {

namespace detail {

inline std::optional<blyan::hash> optional(const blyan_hash &hash, std::int32_t has)
{
    return has ? std::optional<blyan::hash>(hash) : std::nullopt;
}
template <class Call>
hash block(Call call)
{
    return value<blyan_hash>(call);
}

} // namespace detail

// What one layer gets when a model grows.
struct layer_growth {
    std::uint32_t layer = 0;
    std::vector<span<const std::byte>> experts; // payloads of the new experts
    span<const std::byte> router;               // payload of the router: one row more for each
};

// A model with more experts, to be tried and published.
inline snapshot grow(chain &chain, const snapshot &base, const std::vector<layer_growth> &growth)
{
    std::vector<std::vector<blyan_bytes>> experts;
    std::vector<blyan_layer_growth> layers;
    for (const layer_growth &layer : growth) {
        experts.emplace_back();
        for (const span<const std::byte> &expert : layer.experts)
            experts.back().push_back({expert.data(), expert.size()});
        blyan_layer_growth raw{};
        raw.experts = experts.back().data();
        raw.experts_len = experts.back().size();
        raw.router = {layer.router.data(), layer.router.size()};
        raw.layer = layer.layer;
        layers.push_back(raw);
    }
    blyan_snapshot *grown = nullptr;
    detail::check(blyan_snapshot_grow(base.get(), chain.get(), layers.data(), layers.size(), &grown));
    return snapshot(grown);
}

// Low-rank and 8-bit differences of weights as blocks.
namespace delta {

// A block that adds the payload to `base`.
inline hash append(chain &chain, const hash &base, span<const std::byte> payload)
{
    return detail::block([&](auto *out) {
        return blyan_delta_append(chain.get(), &base, payload.data(), payload.size(), out);
    });
}
// The block of weights that a delta makes of its base.
inline hash merge(chain &chain, const hash &delta)
{
    return detail::block([&](auto *out) { return blyan_delta_merge(chain.get(), &delta, out); });
}
// Its payload's hash, without appending it.
inline hash merged_hash(const chain &chain, const hash &delta)
{
    return detail::block(
        [&](auto *out) { return blyan_delta_merged_hash(chain.get(), &delta, out); });
}
// The payload of a merged block, made again where it is missing.
inline payload merged_payload(const chain &chain, const hash &block)
{
    blyan_payload *found = nullptr;
    detail::check(blyan_delta_merged_payload(chain.get(), &block, &found));
    return payload(found);
}
// Puts it back into the chain; false if it was there.
inline bool materialise(chain &chain, const hash &block)
{
    return detail::value<bool>(
        [&](auto *out) { return blyan_delta_materialise(chain.get(), &block, out); });
}
// Adds the payload of a delta to that of a base, without any chain.
inline payload apply(span<const std::byte> base, span<const std::byte> delta)
{
    blyan_payload *made = nullptr;
    detail::check(blyan_delta_apply(base.data(), base.size(), delta.data(), delta.size(), &made));
    return payload(made);
}

} // namespace delta

// Evidence: who says what of which improvement, and what follows from it.
namespace evolve {

// The only name that a contributor, validator or voter has.
struct public_key : blyan_public_key {
    constexpr public_key() noexcept : blyan_public_key{} {}
    constexpr public_key(const blyan_public_key &other) noexcept : blyan_public_key(other) {}
    static public_key from_hex(std::string_view hex)
    {
        const blyan_str given = detail::text(hex);
        return detail::value<blyan_public_key>(
            [&](auto *out) { return blyan_public_key_from_hex(given.data, given.len, out); });
    }
    std::string hex() const
    {
        char digits[BLYAN_HASH_HEX_SIZE];
        detail::check(blyan_public_key_to_hex(this, digits, sizeof digits));
        return digits;
    }
    friend bool operator==(const public_key &a, const public_key &b) noexcept { return compare(a, b) == 0; }
    friend bool operator!=(const public_key &a, const public_key &b) noexcept { return compare(a, b) != 0; }
    friend bool operator<(const public_key &a, const public_key &b) noexcept { return compare(a, b) < 0; }

private:
    static int compare(const public_key &a, const public_key &b) noexcept
    {
        return std::memcmp(a.bytes, b.bytes, sizeof a.bytes);
    }
};

static_assert(sizeof(public_key) == sizeof(blyan_public_key), "lists of keys are C's");

// A key that signs what its owner says: 32 secret bytes.
class key {
public:
    explicit key(span<const std::uint8_t> secret)
        : handle_(detail::make<handle>(
              [&](auto *out) { return blyan_key_from_secret(secret.data(), secret.size(), out); }))
    {
    }
    evolve::public_key public_key() const
    {
        return detail::value<blyan_public_key>([&](auto *out) { return blyan_key_public(get(), out); });
    }
    blyan_key *get() const noexcept { return handle_.get(); }

private:
    using handle = detail::handle<blyan_key, blyan_key_free>;
    handle handle_;
};

// Whose word counts on a model, and how much improvement is enough.
struct policy {
    hash model;
    std::optional<hash> predecessor;
    std::vector<public_key> validators, voters;
    std::vector<hash> datasets;
    std::uint32_t required = 0; // 0: all validators
    std::uint32_t threshold_ppm = 10'000, tolerance_ppm = 1'000;
    std::uint32_t quorum = 1, approval_ppm = 500'001, window = 256;
    std::vector<std::int32_t> tiers = {BLYAN_TIER_GOLD, BLYAN_TIER_SILVER, BLYAN_TIER_EXPERIMENTAL};
};

inline hash append_policy(chain &chain, const policy &policy)
{
    blyan_policy raw;
    detail::check(blyan_policy_init(&raw, sizeof raw));
    raw.model = &policy.model;
    raw.predecessor = policy.predecessor ? &*policy.predecessor : nullptr;
    raw.validators = policy.validators.data();
    raw.validators_len = policy.validators.size();
    raw.voters = policy.voters.data();
    raw.voters_len = policy.voters.size();
    raw.datasets = policy.datasets.data();
    raw.datasets_len = policy.datasets.size();
    raw.required = policy.required;
    raw.threshold_ppm = policy.threshold_ppm;
    raw.tolerance_ppm = policy.tolerance_ppm;
    raw.quorum = policy.quorum;
    raw.approval_ppm = policy.approval_ppm;
    raw.window = policy.window;
    raw.tiers = 0;
    for (const std::int32_t tier : policy.tiers) {
        // C sees bits only, and has none for these.
        if (tier < BLYAN_TIER_GOLD || tier > BLYAN_TIER_EXPERIMENTAL)
            throw error(BLYAN_STATUS_INVALID_ARGUMENT, std::to_string(tier) + " is no blyan_tier",
                        std::nullopt);
        raw.tiers |= std::uint32_t{1} << tier;
    }
    return detail::block([&](auto *out) { return blyan_policy_append(chain.get(), &raw, out); });
}
// The policy in a block, checked again, as its canonical JSON.
inline std::string policy_json(const chain &chain, const hash &policy)
{
    return detail::make_text([&](auto *out) { return blyan_policy_json(chain.get(), &policy, out); });
}

// Token ids of a text as a snapshot's own tokenizer gives them, without special tokens.
inline std::vector<std::uint32_t> tokenize(const chain &chain, const snapshot &snapshot,
                                           std::string_view text)
{
    const blyan_str given = detail::text(text);
    return detail::make_tokens([&](auto *out) {
        return blyan_snapshot_tokenize(snapshot.get(), chain.get(), given.data, given.len, out);
    });
}

// A dataset to propose: a text and the snapshot that reads it, or token ids below vocab_size.
struct dataset_draft {
    std::string name, version = "1.0.0", license, source;
    std::optional<std::string> text;
    const blyan::snapshot *snapshot = nullptr;
    std::vector<std::uint32_t> tokens;
    std::uint32_t vocab_size = 0;
    std::optional<hash> tokenizer, text_hash, predecessor;
    std::int32_t tier = BLYAN_TIER_EXPERIMENTAL;
};

inline hash propose_dataset(chain &chain, const dataset_draft &draft)
{
    blyan_dataset_draft raw;
    detail::check(blyan_dataset_draft_init(&raw, sizeof raw));
    raw.name = detail::text(draft.name);
    raw.version = detail::text(draft.version);
    raw.license = detail::text(draft.license);
    raw.source = detail::text(draft.source);
    if (draft.text)
        raw.text = detail::text(*draft.text);
    raw.snapshot = draft.snapshot == nullptr ? nullptr : draft.snapshot->get();
    raw.tokens = draft.tokens.data();
    raw.tokens_len = draft.tokens.size();
    raw.tokenizer = draft.tokenizer ? &*draft.tokenizer : nullptr;
    raw.text_hash = draft.text_hash ? &*draft.text_hash : nullptr;
    raw.predecessor = draft.predecessor ? &*draft.predecessor : nullptr;
    raw.vocab_size = draft.vocab_size;
    raw.tier = draft.tier;
    return detail::block([&](auto *out) { return blyan_dataset_propose(chain.get(), &raw, out); });
}
inline hash audit_dataset(chain &chain, const hash &policy, const hash &dataset, const key &key)
{
    return detail::block([&](auto *out) {
        return blyan_dataset_audit(chain.get(), &policy, &dataset, key.get(), out);
    });
}
// Throws if the audit of a dataset does not say what is there.
inline void check_dataset_audit(const chain &chain, const hash &audit)
{
    detail::check(blyan_dataset_check_audit(chain.get(), &audit));
}
// What an honest validator finds in a dataset, as the JSON of an audit's body.
inline std::string recompute_dataset_audit_json(const chain &chain, const hash &policy, const hash &dataset)
{
    return detail::make_text(
        [&](auto *out) { return blyan_dataset_recompute_json(chain.get(), &policy, &dataset, out); });
}
inline hash vote(chain &chain, const hash &policy, const hash &dataset, const key &key, bool approve)
{
    return detail::block([&](auto *out) {
        return blyan_dataset_vote(chain.get(), &policy, &dataset, key.get(), approve, out);
    });
}
inline hash tally(chain &chain, const hash &policy, const hash &dataset)
{
    return detail::block(
        [&](auto *out) { return blyan_dataset_tally(chain.get(), &policy, &dataset, out); });
}
inline hash rule(chain &chain, const hash &policy, const hash &dataset)
{
    return detail::block(
        [&](auto *out) { return blyan_dataset_rule(chain.get(), &policy, &dataset, out); });
}

struct dataset_state {
    hash dataset, tokens;
    std::optional<hash> tally, ruling, duplicate_of;
    std::string name, version;
    std::uint64_t num_tokens;
    std::size_t audits, votes; // those that count
    std::int32_t stage, tier;
};

// Where a dataset stands under a policy; all of them without one.
inline std::vector<dataset_state> datasets(const chain &chain, const hash &policy,
                                           const std::optional<hash> &dataset = std::nullopt)
{
    const auto list = detail::make<detail::handle<blyan_dataset_states, blyan_dataset_states_free>>(
        [&](auto *out) {
            return blyan_dataset_list(chain.get(), &policy, dataset ? &*dataset : nullptr, out);
        });
    std::vector<dataset_state> states;
    for (std::size_t i = 0; i < blyan_dataset_states_len(list.get()); i++) {
        const auto raw = detail::describe<blyan_dataset_state>([&](auto *out, std::size_t size) {
            return blyan_dataset_states_get(list.get(), i, out, size);
        });
        dataset_state state{};
        state.dataset = raw.dataset;
        state.tokens = raw.tokens;
        state.tally = detail::optional(raw.tally, raw.has_tally);
        state.ruling = detail::optional(raw.ruling, raw.has_ruling);
        state.duplicate_of = detail::optional(raw.duplicate_of, raw.has_duplicate_of);
        state.name = detail::copy(raw.name);
        state.version = detail::copy(raw.version);
        state.num_tokens = raw.num_tokens;
        state.audits = raw.audits_len;
        state.votes = raw.votes_len;
        state.stage = raw.stage;
        state.tier = raw.tier;
        states.push_back(std::move(state));
    }
    return states;
}
// The same with everything that is known, as a JSON array.
inline std::string datasets_json(const chain &chain, const hash &policy,
                                 const std::optional<hash> &dataset = std::nullopt)
{
    const auto list = detail::make<detail::handle<blyan_dataset_states, blyan_dataset_states_free>>(
        [&](auto *out) {
            return blyan_dataset_list(chain.get(), &policy, dataset ? &*dataset : nullptr, out);
        });
    return detail::make_text([&](auto *out) { return blyan_dataset_states_json(list.get(), out); });
}

using evaluate_progress = blyan_evaluate_progress;
using evaluation = blyan_evaluation;
// How to evaluate; only the window changes the result.
struct evaluate_options {
    std::uint64_t window = 256, pass_tokens = 1024;
    std::optional<std::uint64_t> threads;
    std::string isa; // empty: the best
    // False stops it, and the call throws with BLYAN_STATUS_STOPPED.
    std::function<bool(const evaluate_progress &)> on_progress;
    const blyan::cancel *cancel = nullptr;

    // Makes a call with these options for C.
    template <class Call>
    void watch(Call call) const
    {
        blyan_evaluate_options raw;
        detail::check(blyan_evaluate_options_init(&raw, sizeof raw));
        raw.window = window;
        raw.pass_tokens = pass_tokens;
        raw.threads = detail::count(threads);
        if (!isa.empty())
            raw.isa = detail::text(isa);
        detail::watch(raw, on_progress, cancel, [&] { return call(&raw); });
    }
};

// Mean loss of a model on tokens, the same bits on every machine.
inline evaluation evaluate(const chain &chain, const snapshot &snapshot,
                           const std::vector<std::uint32_t> &tokens, const evaluate_options &options = {})
{
    evaluation found{};
    options.watch([&](const blyan_evaluate_options *raw) {
        return blyan_snapshot_evaluate(snapshot.get(), chain.get(), tokens.data(), tokens.size(), raw, &found,
                                       sizeof found);
    });
    return found;
}
inline evaluation evaluate(const model &model, const std::vector<std::uint32_t> &tokens,
                           const evaluate_options &options = {})
{
    evaluation found{};
    options.watch([&](const blyan_evaluate_options *raw) {
        return blyan_model_evaluate(model.get(), tokens.data(), tokens.size(), raw, &found, sizeof found);
    });
    return found;
}
// Of a base and then of candidates for its place: the same, with what they share computed once.
inline std::vector<evaluation> evaluate_together(const chain &chain, const snapshot &base,
                                                 const std::vector<const snapshot *> &candidates,
                                                 const std::vector<std::uint32_t> &tokens,
                                                 const evaluate_options &options = {})
{
    std::vector<const blyan_snapshot *> others;
    for (const snapshot *candidate : candidates)
        others.push_back(candidate->get());
    detail::handle<blyan_evaluations, blyan_evaluations_free> list;
    options.watch([&](const blyan_evaluate_options *raw) {
        blyan_evaluations *made = nullptr;
        const blyan_status status =
            blyan_snapshot_evaluate_together(base.get(), chain.get(), others.data(), others.size(),
                                             tokens.data(), tokens.size(), raw, &made);
        list.reset(made);
        return status;
    });
    std::vector<evaluation> found;
    for (std::size_t i = 0; i < blyan_evaluations_len(list.get()); i++)
        found.push_back(detail::describe<evaluation>([&](auto *out, std::size_t size) {
            return blyan_evaluations_get(list.get(), i, out, size);
        }));
    return found;
}

// What one key says, signed; the signature of each is valid.
class statement {
public:
    explicit statement(blyan_statement *taken) : handle_(taken) {}
    // Says something of a kind; `body` is JSON.
    static statement sign(const evolve::key &key, std::uint16_t kind, std::string_view body)
    {
        const blyan_str given = detail::text(body);
        return made([&](auto *out) {
            return blyan_statement_sign(key.get(), kind, given.data, given.len, out);
        });
    }
    // Verifies the payload of a statement, without what it names.
    static statement from_json(std::uint16_t kind, std::string_view json)
    {
        const blyan_str given = detail::text(json);
        return made(
            [&](auto *out) { return blyan_statement_from_json(kind, given.data, given.len, out); });
    }
    // The statement in a block, all of it checked again.
    static statement open(const chain &chain, const hash &block)
    {
        return made([&](auto *out) { return blyan_statement_open(chain.get(), &block, out); });
    }
    blyan_statement_info info() const
    {
        return detail::describe<blyan_statement_info>([&](auto *out, std::size_t size) {
            return blyan_statement_describe(handle_.get(), out, size);
        });
    }
    // The payload of its block.
    std::string to_json() const
    {
        return detail::make_text(
            [&](auto *out) { return blyan_statement_to_json(handle_.get(), out); });
    }
    hash append(chain &chain) const
    {
        return detail::block(
            [&](auto *out) { return blyan_statement_append(handle_.get(), chain.get(), out); });
    }

private:
    using handle = detail::handle<blyan_statement, blyan_statement_free>;
    template <class Call>
    static statement made(Call call)
    {
        return statement(detail::make<handle>(call).release());
    }
    handle handle_;
};

} // namespace evolve

} // namespace blyan

#include "blyan_rounds.hpp"

#endif // BLYAN_EVOLVE_HPP
