// Training of blyan.hpp: every class and function once.
//
//     learn MODEL_DIR EMPTY_DIR

#include "check.hpp"

#include <blyan.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>

namespace {

namespace learn = blyan::learn;

struct mine {};

const char *const EXPERT = "layer3.expert7";

blyan::slot slot_of(const blyan::snapshot &snapshot, const std::string &name)
{
    const auto slots = snapshot.slots();
    const auto found =
        std::find_if(slots.begin(), slots.end(), [&](const blyan::slot &slot) { return slot.name == name; });
    EXPECT(found != slots.end());
    return *found;
}

bool same(const blyan::payload &a, const blyan::payload &b)
{
    return a.bytes().size() == b.bytes().size() &&
           std::equal(a.bytes().begin(), a.bytes().end(), b.bytes().begin());
}

// A whole layer learns, so that somebody has something to learn.
learn::train_options layer_options()
{
    learn::train_options options;
    for (int expert = 0; expert < 8; expert++)
        options.slots.push_back("layer3.expert" + std::to_string(expert));
    options.slots.push_back("layer3.router");
    options.steps = 3;
    options.batch = 2;
    options.sequence = 16;
    options.learning_rate = 1e-3;
    options.balance = 0.01;
    options.seed = 7;
    options.threads = 1;
    return options;
}

void defaults()
{
    const learn::train_options none{};
    const blyan::detail::training asked(none);
    blyan_train_options raw;
    EXPECT(blyan_train_options_init(&raw, sizeof raw) == BLYAN_STATUS_OK);
    EXPECT(asked.raw.form == raw.form && asked.raw.rank == raw.rank && asked.raw.steps == raw.steps);
    EXPECT(asked.raw.batch == raw.batch && asked.raw.sequence == raw.sequence);
    EXPECT(asked.raw.learning_rate == raw.learning_rate && asked.raw.warmup_steps == raw.warmup_steps);
    EXPECT(asked.raw.learning_rate_floor == raw.learning_rate_floor && asked.raw.eps == raw.eps);
    EXPECT(asked.raw.beta1 == raw.beta1 && asked.raw.beta2 == raw.beta2 && asked.raw.clip == raw.clip);
    EXPECT(asked.raw.weight_decay == raw.weight_decay && asked.raw.balance == raw.balance);
    EXPECT(asked.raw.seed == raw.seed && asked.raw.threads == raw.threads);
}

void refusals(const blyan::chain &chain, const blyan::snapshot &base,
              const std::vector<std::uint32_t> &tokens)
{
    const auto begun = [&](const learn::train_options &options, const std::vector<std::uint32_t> &some) {
        return status_of([&] { learn::trainer(chain, base, some, options); });
    };
    learn::train_options options = layer_options();
    EXPECT(begun(options, {3, 4, 5}) == BLYAN_STATUS_INVALID_ARGUMENT);
    std::vector<std::uint32_t> far = tokens;
    far.back() = 2048;
    EXPECT(begun(options, far) == BLYAN_STATUS_INVALID_ARGUMENT);
    options.clip = -1;
    EXPECT(begun(options, tokens) == BLYAN_STATUS_INVALID_ARGUMENT);
    options = layer_options();
    options.rank = 2;
    EXPECT(begun(options, tokens) == BLYAN_STATUS_INVALID_ARGUMENT);
    options = layer_options();
    options.slots.push_back("layer4.router");
    EXPECT(begun(options, tokens) == BLYAN_STATUS_NOT_FOUND);
    options.slots = {"nowhere"};
    EXPECT(begun(options, tokens) == BLYAN_STATUS_INVALID_ARGUMENT);
    EXPECT(status_of([&] { learn::trainer::from_nothing("{}", 0.02, tokens); }) ==
           BLYAN_STATUS_INVALID_MODEL);
}

void runs(blyan::chain &chain, const blyan::snapshot &base, const std::vector<std::uint32_t> &tokens)
{
    const learn::train_options options = layer_options();
    learn::trainer whole(chain, base, tokens, options);
    EXPECT(whole.info().steps == 3 && whole.info().steps_done == 0);
    EXPECT(whole.info().trained_parameters == 8 * 3 * 192 * 256 + 8 * 192);
    const double before = whole.loss(tokens);
    std::vector<double> losses;
    EXPECT(whole.run([&](const learn::step_report &report) {
        EXPECT(report.step == losses.size() && report.tokens == 32 && report.balance > 0);
        losses.push_back(report.loss);
        return true;
    }));
    EXPECT(losses.size() == 3 && whole.loss(tokens) < before && whole.run());

    // Stopped by an exception, by false and by a flag, it goes on to the same bits.
    learn::trainer parts(chain, base, tokens, options);
    bool caught = false;
    try {
        parts.run([](const learn::step_report &) -> bool { throw mine(); });
    } catch (const mine &) {
        caught = true;
    }
    EXPECT(caught && parts.info().steps_done == 1);
    const auto stop = [](const learn::step_report &) { return false; };
    EXPECT(status_of([&] { parts.run(stop); }) == BLYAN_STATUS_STOPPED && parts.info().steps_done == 2);
    const blyan::payload saved = parts.checkpoint();
    parts = learn::trainer(chain, base, tokens, options);
    std::vector<std::byte> damaged(saved.bytes().begin(), saved.bytes().end());
    damaged[damaged.size() / 2] ^= std::byte{1};
    EXPECT(status_of([&] { parts.resume({damaged.data(), damaged.size()}); }) == BLYAN_STATUS_CHECKPOINT);
    EXPECT(parts.info().steps_done == 0);
    parts.resume(saved.bytes());
    EXPECT(parts.info().steps_done == 2);
    blyan::cancel cancel;
    cancel.set();
    EXPECT(!parts.run(nullptr, &cancel) && parts.info().steps_done == 2);
    cancel.set(false);
    EXPECT(parts.step().loss == losses.back() && parts.run(stop, &cancel));
    EXPECT(same(whole.checkpoint(), parts.checkpoint()));

    const auto learnt = whole.append_candidates(chain);
    const auto again = parts.append_candidates(chain);
    EXPECT(!learnt.empty() && learnt.size() == again.size());
    blyan::snapshot better = blyan::snapshot::open(chain, blyan::hash(base.info().base));
    for (std::size_t i = 0; i < learnt.size(); i++) {
        EXPECT(learnt[i].slot == again[i].slot && learnt[i].block == again[i].block && !learnt[i].delta);
        EXPECT(learnt[i].base == slot_of(base, learnt[i].slot).block);
        EXPECT(chain.at(learnt[i].block).payload == chain.at(again[i].block).payload);
        better = better.with_block(chain, learnt[i].block);
    }
    blyan::evolve::evaluate_options evaluating;
    evaluating.window = 16;
    const auto loss = [&](const blyan::snapshot &snapshot) {
        return blyan::evolve::evaluate(chain, snapshot, tokens, evaluating).loss;
    };
    EXPECT(std::abs(loss(base) - before) < 0.01 * before && loss(better) < loss(base));
    EXPECT(status_of([&] { whole.append_model(chain, BLYAN_DTYPE_BF16); }) == BLYAN_STATUS_NOT_FOUND);
}

void looks(blyan::chain &chain, const blyan::snapshot &base, const std::vector<std::uint32_t> &tokens)
{
    learn::train_options options = layer_options();
    options.slots = {EXPERT};
    options.form = BLYAN_FORM_LOW_RANK;
    options.rank = 2;
    options.learning_rate = 0.01;
    learn::trainer trainer(chain, base, tokens, options);
    EXPECT(trainer.info().trained_parameters == 3 * 2 * (192 + 256));
    const learn::gradients found = trainer.gradients(tokens);
    EXPECT(found.loss > 0 && found.tensors.size() == 6 && found.tensors[0].slot == EXPERT);
    EXPECT(found.tensors[0].tensor == "down_proj.lora_A.weight" && found.tensors[0].values.size() == 2 * 256);
    // What begins with zeros hides the other factor.
    const auto zero = [](float value) { return value == 0; };
    EXPECT(std::all_of(found.tensors[0].values.begin(), found.tensors[0].values.end(), zero));
    EXPECT(status_of([&] { trainer.gradients({3}); }) == BLYAN_STATUS_INVALID_ARGUMENT);

    blyan::model_options opening;
    opening.kv_cache = BLYAN_KV_CACHE_F32;
    const std::vector<std::uint32_t> few(tokens.begin(), tokens.begin() + 5);
    const std::vector<float> ours = trainer.logits(few);
    const std::vector<float> theirs = blyan::model(chain, base, opening).logits(few);
    EXPECT(ours.size() == theirs.size());
    for (std::size_t i = 0; i < ours.size(); i++)
        EXPECT(std::abs(ours[i] - theirs[i]) < 1e-2f);
    EXPECT(status_of([&] { trainer.logits({}); }) == BLYAN_STATUS_INVALID_ARGUMENT);

    EXPECT(trainer.run());
    for (const learn::trained_block &block : trainer.append_candidates(chain)) {
        EXPECT(block.delta && chain.at(*block.delta).kind_name == "delta");
        EXPECT(blyan::delta::merged_hash(chain, *block.delta) == chain.at(block.block).payload);
    }
    options.form = BLYAN_FORM_FULL;
    options.rank = 0;
    options.learning_rate = 1e39;
    options.slots = layer_options().slots;
    learn::trainer fast(chain, base, tokens, options);
    EXPECT(status_of([&] { fast.run(); }) == BLYAN_STATUS_DIVERGED && fast.info().steps_done == 1);
}

void nothing(const blyan::chain &chain, const blyan::snapshot &base, const std::vector<std::uint32_t> &tokens)
{
    learn::train_options options;
    options.steps = options.batch = 1;
    options.sequence = 8;
    learn::trainer trainer = learn::trainer::from_nothing(base.spec_json(), 0.02, tokens, options);
    EXPECT(std::abs(trainer.step().loss - std::log(2048.0)) < 0.5);
    blyan::chain other = blyan::chain::in_memory();
    EXPECT(status_of([&] { trainer.append_candidates(other); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    EXPECT(status_of([&] { trainer.append_model(other, BLYAN_DTYPE_I8); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    EXPECT(other.size() == 0);
    const blyan::payload tokenizer = chain.payload(slot_of(base, "tokenizer").block);
    const blyan::hash model = trainer.append_model(other, BLYAN_DTYPE_BF16, {{"tokenizer", tokenizer.bytes()}});
    const blyan::snapshot made = blyan::snapshot::open(other);
    EXPECT(blyan::hash(made.info().base) == model && made.spec_json() == base.spec_json());
    EXPECT(slot_of(made, "tokenizer").payload == slot_of(base, "tokenizer").payload);
    blyan::generate_options generating;
    generating.max_tokens = 2;
    EXPECT(!blyan::model(other).generate("And", generating).tokens().empty());
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::cerr << "learn MODEL_DIR EMPTY_DIR\n";
        return 2;
    }
    try {
        blyan::chain chain = blyan::chain::in_memory();
        chain.import_checkpoint(argv[1]);
        const blyan::snapshot base = blyan::snapshot::open(chain);
        std::string text;
        for (int i = 0; i < 6; i++)
            text += "In the beginning God created the heaven and the earth. ";
        const std::vector<std::uint32_t> tokens = blyan::evolve::tokenize(chain, base, text);
        defaults();
        refusals(chain, base, tokens);
        runs(chain, base, tokens);
        looks(chain, base, tokens);
        nothing(chain, base, tokens);
    } catch (const std::exception &error) {
        std::cerr << "learn: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
    std::cout << failures << " failures\n";
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
