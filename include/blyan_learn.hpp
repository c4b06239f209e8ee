// blyan_learn.hpp - training, for C++17: slots of a model learn on tokens, and candidates come of it.
// Part of blyan.hpp, with its rules.

#ifndef BLYAN_LEARN_HPP
#define BLYAN_LEARN_HPP

#include "blyan.hpp"

namespace blyan {

namespace learn {

// What to train and how.
struct train_options {
    std::vector<std::string> slots; // such as "layer3.expert7"; all others stay as they are
    std::int32_t form = BLYAN_FORM_FULL;
    std::uint64_t rank = 0; // for BLYAN_FORM_LOW_RANK alone
    std::uint64_t steps = 100, batch = 8, sequence = 256;
    double learning_rate = 1e-4, learning_rate_floor = 0.1; // the floor is a share of the rate
    std::uint64_t warmup_steps = 0;
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
    std::optional<double> clip = 1; // largest norm of all gradients together; none: any
    double balance = 0;             // weight of the loss that balances experts
    std::uint64_t seed = 0;
    std::optional<std::uint64_t> threads; // none: all cores; the bits of a run may depend on it
};

using step_report = blyan_step_report;
// Hears of each step; false stops the run, and it throws with BLYAN_STATUS_STOPPED.
using step_fn = std::function<bool(const step_report &)>;

// Gradient of one tensor, in the order of its elements.
struct gradient {
    std::string slot, tensor;
    std::vector<float> values;
};
// Loss of a sequence, and the gradients of every tensor that learns.
struct gradients {
    double loss = 0;
    std::vector<gradient> tensors;
};
// A block that was trained to take another's place.
struct trained_block {
    std::string slot;
    hash base, block;
    std::optional<hash> delta; // in the forms that have one
};
// A file of a model, such as its tokenizer.
struct model_text {
    std::string slot;
    span<const std::byte> bytes;
};

} // namespace learn

namespace detail {

// Options as C takes them, with what they point to.
struct training {
    std::vector<blyan_str> slots;
    blyan_train_options raw;

    explicit training(const learn::train_options &options) : slots(texts(options.slots))
    {
        check(blyan_train_options_init(&raw, sizeof raw));
        raw.slots = slots.data();
        raw.slots_len = slots.size();
        raw.form = options.form;
        raw.rank = options.rank;
        raw.steps = options.steps;
        raw.batch = options.batch;
        raw.sequence = options.sequence;
        raw.learning_rate = options.learning_rate;
        raw.learning_rate_floor = options.learning_rate_floor;
        raw.warmup_steps = options.warmup_steps;
        raw.beta1 = options.beta1;
        raw.beta2 = options.beta2;
        raw.eps = options.eps;
        raw.weight_decay = options.weight_decay;
        raw.clip = options.clip.value_or(0);
        raw.balance = options.balance;
        raw.seed = options.seed;
        raw.threads = count(options.threads);
    }
    training(const training &) = delete;
    training &operator=(const training &) = delete;
};

} // namespace detail

namespace learn {

// A run of training.
class trainer {
public:
    // Begins with the blocks of a snapshot.
    trainer(const chain &chain, const snapshot &base, const std::vector<std::uint32_t> &tokens,
            const train_options &options)
    {
        const detail::training asked(options);
        handle_ = detail::make<handle>([&](auto *out) {
            return blyan_trainer_new(chain.get(), base.get(), tokens.data(), tokens.size(), &asked.raw, out);
        });
    }
    // Begins with nothing but a spec, as snapshot::spec_json gives it: all of its slots are trained.
    static trainer from_nothing(std::string_view spec, double deviation,
                                const std::vector<std::uint32_t> &tokens, const train_options &options = {})
    {
        const detail::training asked(options);
        const blyan_str given = detail::text(spec);
        return trainer(detail::make<handle>([&](auto *out) {
            return blyan_trainer_from_nothing(given.data, given.len, deviation, tokens.data(), tokens.size(),
                                              &asked.raw, out);
        }));
    }
    blyan_trainer *get() const noexcept { return handle_.get(); }
    blyan_trainer_info info() const
    {
        return detail::describe<blyan_trainer_info>(
            [&](auto *out, std::size_t size) { return blyan_trainer_describe(get(), out, size); });
    }

    // Does the steps that are left; false if it was cancelled between two of them, so that it can go on.
    bool run(const step_fn &on_step = nullptr, const blyan::cancel *cancel = nullptr)
    {
        detail::callback<step_report> heard{on_step, nullptr};
        blyan_step_fn hear = nullptr;
        if (on_step)
            hear = detail::callback<step_report>::call<blyan_step_report>;
        bool finished = false;
        const blyan_status status = blyan_trainer_run(
            get(), hear, &heard, cancel == nullptr ? nullptr : cancel->get(), &finished);
        heard.rethrow();
        detail::check(status);
        return finished;
    }
    step_report step()
    {
        return detail::describe<blyan_step_report>(
            [&](auto *out, std::size_t size) { return blyan_trainer_step(get(), out, size); });
    }

    // Mean loss of tokens: a guide while training. What counts is evolve::evaluate of the candidate.
    double loss(const std::vector<std::uint32_t> &tokens) const
    {
        return detail::value<double>(
            [&](auto *out) { return blyan_trainer_loss(get(), tokens.data(), tokens.size(), out); });
    }
    // (tokens, vocab_size), row-major.
    std::vector<float> logits(const std::vector<std::uint32_t> &tokens) const
    {
        std::vector<float> logits(tokens.size() * static_cast<std::size_t>(info().vocab_size));
        detail::check(
            blyan_trainer_logits(get(), tokens.data(), tokens.size(), logits.data(), logits.size()));
        return logits;
    }
    learn::gradients gradients(const std::vector<std::uint32_t> &tokens) const
    {
        learn::gradients found;
        const auto list =
            detail::make<detail::handle<blyan_gradients, blyan_gradients_free>>([&](auto *out) {
                return blyan_trainer_gradients(get(), tokens.data(), tokens.size(), &found.loss, out);
            });
        for (std::size_t i = 0; i < blyan_gradients_len(list.get()); i++) {
            const auto raw = detail::describe<blyan_gradient>([&](auto *out, std::size_t size) {
                return blyan_gradients_get(list.get(), i, out, size);
            });
            found.tensors.push_back({detail::copy(raw.slot), detail::copy(raw.tensor),
                                     std::vector<float>(raw.values, raw.values + raw.values_len)});
        }
        return found;
    }

    // The whole state: resumed on the same machine with the same threads, it goes on to the same bits.
    payload checkpoint() const
    {
        blyan_payload *made = nullptr;
        detail::check(blyan_trainer_checkpoint(get(), &made));
        return payload(made);
    }
    // Goes on from a checkpoint of the same run; after an error the run is as it was.
    void resume(span<const std::byte> checkpoint)
    {
        detail::check(blyan_trainer_resume(get(), checkpoint.data(), checkpoint.size()));
    }

    // Appends a candidate for each slot whose weights do not round to the base's.
    std::vector<trained_block> append_candidates(chain &chain) const
    {
        const auto list = detail::make<detail::handle<blyan_trained_blocks, blyan_trained_blocks_free>>(
            [&](auto *out) { return blyan_trainer_append_candidates(get(), chain.get(), out); });
        std::vector<trained_block> blocks;
        for (std::size_t i = 0; i < blyan_trained_blocks_len(list.get()); i++) {
            const auto raw = detail::describe<blyan_trained_block>([&](auto *out, std::size_t size) {
                return blyan_trained_blocks_get(list.get(), i, out, size);
            });
            blocks.push_back({detail::copy(raw.slot), raw.base, raw.block, std::nullopt});
            if (raw.has_delta)
                blocks.back().delta = raw.delta;
        }
        return blocks;
    }
    // Appends the whole model of a run from nothing, and gives its model block.
    hash append_model(chain &chain, std::int32_t dtype, const std::vector<model_text> &texts = {}) const
    {
        std::vector<blyan_slot_bytes> raw;
        for (const model_text &text : texts)
            raw.push_back({detail::text(text.slot), {text.bytes.data(), text.bytes.size()}});
        return detail::value<blyan_hash>([&](auto *out) {
            return blyan_trainer_append_model(get(), chain.get(), dtype, raw.data(), raw.size(), out);
        });
    }

private:
    using handle = detail::handle<blyan_trainer, blyan_trainer_free>;
    explicit trainer(handle taken) : handle_(std::move(taken)) {}
    handle handle_;
};

} // namespace learn

} // namespace blyan

#endif // BLYAN_LEARN_HPP
