// blyan.hpp beyond the quickstart: every class once, exceptions through callbacks, moves, views.
//
//     api MODEL_DIR EMPTY_DIR

#include "check.hpp"

#include <blyan.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <type_traits>
#include <unordered_set>

namespace {

struct mine {};

static_assert(!std::is_invocable_v<decltype(blyan::set_log_callback) &, blyan_log_fn, void *, std::int32_t>,
              "a log callback that may throw");

void callbacks_throw(blyan::chain &chain, const blyan::model &model, const char *folder)
{
    blyan::import_options importing;
    importing.on_progress = [](const blyan::progress &) -> bool { throw mine(); };
    bool caught = false;
    try {
        chain.import_checkpoint(folder, importing);
    } catch (const mine &) {
        caught = true;
    }
    EXPECT(caught);
    importing.on_progress = [](const blyan::progress &) { return false; };
    EXPECT(status_of([&] { chain.import_checkpoint(folder, importing); }) == BLYAN_STATUS_STOPPED);

    blyan::generate_options options;
    options.max_tokens = 4;
    int heard = 0;
    options.on_token = [&](const blyan::piece &) -> bool {
        if (++heard == 2)
            throw mine();
        return true;
    };
    caught = false;
    try {
        model.generate("And", options);
    } catch (const mine &) {
        caught = true;
    }
    EXPECT(caught && heard == 2);
    EXPECT(status_of([&] { model.stream("And", options); }) == BLYAN_STATUS_INVALID_ARGUMENT);
}

void generations(const blyan::chain &chain, const blyan::model &model)
{
    blyan::generate_options options;
    options.max_tokens = 6;
    options.logprobs = 3;
    const blyan::generation whole = model.generate("In the beginning", options);
    EXPECT(whole.logprobs().size() == 6 && whole.logprobs()[0].top.size() == 3);
    EXPECT(whole.logprobs()[0].chosen.token == whole.tokens()[0]);
    EXPECT(whole.finish_reason() == BLYAN_FINISH_REASON_MAX_TOKENS);

    // The same, piece by piece.
    std::string text;
    blyan::stream stream = model.stream("In the beginning", options);
    for (const blyan::piece &piece : stream) {
        text += piece.text;
        EXPECT(piece.logprobs.has_value());
    }
    const blyan::generation streamed = stream.finish();
    EXPECT(text == whole.text() && streamed.tokens() == whole.tokens());

    // The same, from token ids, in a batch, and in two parts of a session.
    const std::vector<std::uint32_t> tokens = model.tokenize("In the beginning");
    EXPECT(model.count_tokens("In the beginning") == tokens.size());
    EXPECT(whole.prompt_tokens() == tokens.size());
    EXPECT(model.detokenize(whole.tokens()) == whole.text());
    const auto batch = model.generate_batch({tokens, "And the LORD"}, options);
    EXPECT(batch.size() == 2 && batch[0].text() == whole.text() && batch[1].text() != whole.text());
    blyan::session session = model.session();
    options.max_tokens = 2;
    session.generate(tokens, options);
    options.max_tokens = 4;
    session.generate(std::vector<std::uint32_t>(), options);
    std::vector<std::uint32_t> said = tokens;
    for (const std::uint32_t token : whole.tokens())
        said.push_back(token);
    EXPECT(session.tokens() == said && session.cache_bytes() > 0);
    session.truncate(tokens.size());
    {
        std::string pieces;
        blyan::stream rest = session.stream(std::vector<std::uint32_t>(), options);
        for (const blyan::piece &piece : rest)
            pieces += piece.text;
        EXPECT(pieces == rest.finish().text());
    }
    session.truncate(tokens.size());
    EXPECT(session.tokens() == tokens);

    // The logits are those that the greedy choice was made from.
    const std::vector<float> logits = model.logits(tokens);
    const std::size_t width = static_cast<std::size_t>(model.info().vocab_size);
    const auto last = logits.end() - static_cast<std::ptrdiff_t>(width);
    EXPECT(logits.size() == tokens.size() * width);
    EXPECT(std::max_element(last, logits.end()) - last == static_cast<std::ptrdiff_t>(whole.tokens()[0]));
    EXPECT(model.token_id(model.token(tokens[0])) == tokens[0]);
    EXPECT(model.special_token("bos_token") == "<s>" && model.chat_templates_json() == "[]");
    EXPECT(status_of([&] { model.special_token("nobody"); }) == BLYAN_STATUS_NOT_FOUND);

    // A receipt survives JSON; one that is edited does not survive a replay.
    std::string json = whole.receipt().to_json();
    const blyan::receipt again = blyan::receipt::from_json(json);
    EXPECT(again.replay(chain).empty() && again.diff(whole.receipt()).empty());
    const std::size_t claim = json.find("\"claim\":"), seals = json.find(",\"seals\":");
    EXPECT(claim < seals && seals != std::string::npos);
    EXPECT(blyan::receipt::of_claim(json.substr(claim + 8, seals - claim - 8)).to_json() == json);
    EXPECT(again.blocks().size() == again.info().blocks_len && !again.blocks().empty());
    const std::size_t seed = json.find("\"seed\":0");
    EXPECT(seed != std::string::npos);
    json.replace(seed, 8, "\"seed\":1");
    const auto differences = blyan::receipt::from_json(json).replay(chain);
    EXPECT(differences.size() == 1 && differences[0].path == "/claim/options/seed");

    EXPECT(status_of([&] { model.chat("[{\"role\":\"user\",\"content\":\"Hi\"}]"); }) == BLYAN_STATUS_CHAT);
    EXPECT(status_of([&] { model.chat_stream("[]"); }) == BLYAN_STATUS_CHAT);
    EXPECT(status_of([&] { model.chat_prompt("{}", true); }) == BLYAN_STATUS_INVALID_ARGUMENT);

    blyan::cancel cancel;
    cancel.set();
    EXPECT(cancel.is_set());
    options.cancel = &cancel;
    EXPECT(model.generate("And", options).finish_reason() == BLYAN_FINISH_REASON_CANCELLED);
}

void replace_first(std::string &text, const std::string &what, const std::string &with)
{
    const std::size_t at = text.find(what);
    EXPECT(at != std::string::npos);
    if (at != std::string::npos)
        text.replace(at, what.size(), with);
}

// The same model with a tokenizer that begins each text with <s>.
void special_tokens(const std::string &model_folder, const std::string &folder)
{
    const std::filesystem::path changed = folder + "/special";
    std::filesystem::copy(model_folder, changed);
    std::stringstream json;
    json << std::ifstream(changed / "tokenizer.json", std::ios::binary).rdbuf();
    std::string tokenizer = json.str();
    replace_first(tokenizer, "\"single\": [",
                  "\"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}},");
    replace_first(tokenizer, "\"special_tokens\": {}",
                  "\"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [0], \"tokens\": [\"<s>\"]}}");
    std::ofstream(changed / "tokenizer.json", std::ios::binary) << tokenizer;

    blyan::chain chain = blyan::chain::in_memory();
    chain.import_checkpoint(changed.string());
    const blyan::model model(chain);
    const std::string text = "In the beginning";
    const std::vector<std::uint32_t> bare = model.tokenize(text, false);
    std::vector<std::uint32_t> whole = {model.token_id("<s>")};
    whole.insert(whole.end(), bare.begin(), bare.end());
    EXPECT(!bare.empty() && model.tokenize(text) == whole);
    EXPECT(model.count_tokens(text) == whole.size() && model.count_tokens(text, false) == bare.size());
    EXPECT(model.detokenize(whole) == text && model.detokenize(whole, false) == "<s>" + text);
    EXPECT(model.detokenize(bare, false) == text);
}

void usage(const blyan::model &model)
{
    std::uint64_t tokens = 0;
    for (const blyan::expert_usage &expert : model.usage())
        tokens += expert.tokens;
    EXPECT(model.usage().size() == 32 && tokens > 0);
    const auto top = model.usage_top(1);
    EXPECT(top.size() == 1 && model.usage(top[0].name).tokens == top[0].tokens);
    EXPECT(!model.co_use().empty() && model.usage_json().find(top[0].name) != std::string::npos);
    EXPECT(model.residency().experts_touched > 0);
    model.usage_flush();
    model.usage_reset();
    EXPECT(model.usage_top(5).empty());
}

void blocks(blyan::chain &chain, const std::string &folder)
{
    std::unordered_set<blyan::hash> seen;
    for (const blyan::block &block : chain.all_blocks()) {
        for (const blyan_parent &parent : block.parents)
            EXPECT(seen.count(parent.hash) == 1);
        seen.insert(block.hash);
    }
    EXPECT(seen.size() == chain.size());
    EXPECT(blyan::kind_name(blyan::kind_from_name("router")) == "router");

    const blyan::block head = chain.heads("model").at(0);
    EXPECT(chain.contains(head.hash) && chain.at(head.hash).name == "model");
    EXPECT(chain.ancestors(head.hash).size() + 1 == seen.size());
    EXPECT(chain.children(chain.tips(BLYAN_LANE_META).at(0)).empty());
    EXPECT(blyan::hash::from_hex(head.hash.hex()) == head.hash && !(head.hash < head.hash));
    EXPECT(chain.payload(head.hash).bytes().size() == head.payload_bytes);

    const std::uint8_t key[BLYAN_SECRET_KEY_SIZE] = {7};
    const blyan::signature signature = blyan::sign({key, sizeof key}, head.hash, 5);
    EXPECT(blyan::verifies(signature, head.hash) && !blyan::verifies(signature, chain.root()));
    chain.add_signature(head.hash, signature);
    EXPECT(chain.signatures(head.hash).size() == 1);

    EXPECT(chain.verify().ok());
    blyan::export_options exporting;
    exporting.max_shard_bytes = 1 << 20;
    EXPECT(chain.export_checkpoint(head.hash, folder + "/export", exporting).files.size() > 3);
    blyan::chain second = blyan::chain::in_memory();
    EXPECT(blyan::hash(second.import_checkpoint(folder + "/export").model) == head.hash);
    second = blyan::chain(folder + "/chain");
    EXPECT(second.dir() == folder + "/chain" && second.is_writable());
}

// Two elements a byte, and a scale for each 32 columns of a row.
void four_bits()
{
    const std::vector<std::uint8_t> values(64, 0x9a);
    const std::vector<std::uint16_t> ones(4, 0x3f80);
    const std::size_t value_dims[] = {2, 64}, scale_dims[] = {2, 2};
    blyan_tensor weight{}, scale{};
    weight.name = {"w", 1};
    weight.data = values.data();
    weight.nbytes = values.size();
    weight.dims = value_dims;
    weight.rank = 2;
    weight.dtype = BLYAN_DTYPE_I4;
    scale.name = {"w_scale", 7};
    scale.data = ones.data();
    scale.nbytes = ones.size() * sizeof ones[0];
    scale.dims = scale_dims;
    scale.rank = 2;
    scale.dtype = BLYAN_DTYPE_BF16;
    const blyan::payload payload = blyan::write_tensors({weight, scale});
    const blyan::tensors tensors = blyan::tensors::parse(payload.bytes());
    const blyan::tensor found = tensors["w"], scales = tensors.scale("w");
    const blyan::span<const std::uint8_t> bytes = found.as<std::uint8_t>();
    EXPECT(std::equal(bytes.begin(), bytes.end(), values.begin(), values.end()));
    EXPECT(status_of([&] { found.as<std::uint16_t>(); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    EXPECT(tensors.to_f32("w").size() == 128 && tensors.to_f32("w")[0] == 2 && tensors.to_f32("w")[1] == 1);
    EXPECT(scales.dtype == BLYAN_DTYPE_BF16 && scales.shape().size() == 2 && scales.shape()[1] == 2);
}

// Twice an expert's weights: a change that is published, released and rolled back.
void change_an_expert(blyan::chain &chain)
{
    const blyan::snapshot before = blyan::snapshot::open(chain);
    const auto slots = before.slots();
    const auto found = std::find_if(slots.begin(), slots.end(),
                                    [](const blyan::slot &slot) { return slot.name == "layer1.expert2"; });
    EXPECT(found != slots.end());
    const blyan::tensors tensors = chain.tensors(found->block);
    std::vector<std::vector<float>> values;
    std::vector<blyan_tensor> written;
    for (const blyan::tensor &tensor : tensors) {
        values.push_back(tensors.to_f32(tensor.label()));
        for (float &value : values.back())
            value *= 2;
        blyan_tensor changed = tensor;
        changed.dtype = BLYAN_DTYPE_F32;
        changed.data = values.back().data();
        changed.nbytes = values.back().size() * sizeof(float);
        written.push_back(changed);
    }
    const blyan::payload payload = blyan::write_tensors(written);
    EXPECT(blyan::tensors::parse(payload.bytes()).size() == tensors.size());
    std::vector<std::uint16_t> halves(values[0].size());
    blyan::convert(BLYAN_DTYPE_F32, {static_cast<const std::byte *>(written[0].data), written[0].nbytes},
                   BLYAN_DTYPE_BF16, {reinterpret_cast<std::byte *>(halves.data()), halves.size() * 2});
    EXPECT(std::abs(values[0][0]) < 1 && (halves[0] >> 15) == (std::signbit(values[0][0]) ? 1 : 0));
    std::vector<std::byte> small(values[0].size());
    std::vector<float> scales(written[0].dims[0]);
    blyan::quantize(written[0], BLYAN_DTYPE_I8, {small.data(), small.size()}, {scales.data(), scales.size()});
    EXPECT(std::all_of(scales.begin(), scales.end(), [](float scale) { return scale > 0; }));
    std::vector<std::byte> nibbles(values[0].size() / 2);
    std::vector<std::uint16_t> groups(values[0].size() / 32);
    blyan::quantize_i4(written[0], {nibbles.data(), nibbles.size()}, {groups.data(), groups.size()});
    // On average a value is a quarter of a step away.
    float away = 0, steps = 0;
    for (std::size_t i = 0; i < values[0].size(); i++) {
        const std::uint32_t bits = std::uint32_t{groups[i / 32]} << 16;
        float scale;
        std::memcpy(&scale, &bits, sizeof scale);
        const int nibble = static_cast<int>(nibbles[i / 2] >> (i % 2 * 4)) & 15;
        away += std::abs(static_cast<float>(nibble - 8) * scale - values[0][i]);
        steps += std::abs(scale);
    }
    EXPECT(steps > 0 && away > 0.2F * steps && away < 0.3F * steps);
    EXPECT(status_of([&] { tensors.scale(written[0].name.data); }) == BLYAN_STATUS_NOT_FOUND);
    EXPECT(status_of([&] { tensors["gate_proj.weight"].as<double>(); }) == BLYAN_STATUS_INVALID_ARGUMENT);

    blyan::draft draft;
    draft.kind = blyan::kind_from_name("expert");
    draft.name = found->name;
    draft.version = "1.0.1";
    draft.parents = {{before.info().spec, BLYAN_ROLE_DEPENDENCY}, {found->block, BLYAN_ROLE_PREDECESSOR}};
    draft.payload = payload.bytes();
    blyan::writer writer = chain.begin();
    const blyan_appended appended = writer.append(draft);
    EXPECT(blyan::hash(appended.hash) == draft.hash() && writer.contains(appended.hash));
    const std::uint8_t key[BLYAN_SECRET_KEY_SIZE] = {9};
    writer.add_signature(appended.hash, blyan::sign({key, sizeof key}, appended.hash, 1));
    writer.commit();

    const blyan::snapshot after = before.with_block(chain, appended.hash);
    const auto changes = before.diff(after);
    EXPECT(changes.size() == 1 && changes[0].name == "layer1.expert2" &&
           changes[0].after == blyan::hash(appended.hash) && changes[0].before == found->block);
    // What a host keeps of a model that is not published, and what another makes of it.
    const blyan::snapshot kept =
        blyan::snapshot::of_manifest(chain, after.manifest_json(), blyan::hash(before.info().base));
    EXPECT(blyan::hash(kept.info().root) == blyan::hash(after.info().root));
    EXPECT(kept.model_block(chain) == after.model_block(chain));
    EXPECT(status_of([&] { blyan::snapshot::of_manifest(chain, "{}"); }) != BLYAN_STATUS_OK);
    const blyan::block expert = chain.at(appended.hash);
    const auto *payload_name = reinterpret_cast<const std::byte *>(expert.payload.bytes);
    EXPECT(std::search(expert.header.begin(), expert.header.end(), payload_name,
                       payload_name + sizeof expert.payload.bytes) != expert.header.end());
    const auto count = [](blyan::blocks blocks) { return std::distance(blocks.begin(), blocks.end()); };
    EXPECT(count(chain.blocks_of_kind(BLYAN_LANE_PARAMETER, draft.kind)) == count(chain.blocks_of_kind(draft.kind)));
    EXPECT(count(chain.blocks_of_kind(BLYAN_LANE_META, draft.kind)) == 0);
    const blyan::model tried(chain, after);
    const blyan::hash published = after.publish(chain);
    EXPECT(blyan::hash(tried.info().model) == published && after.model_block(chain) == published);
    EXPECT(chain.at(chain.release(published, "louder", "1.2.3")).version == "1.2.3");
    EXPECT(status_of([&] { chain.release(published, "louder", "one"); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    blyan::model_options options;
    options.model = published;
    options.threads = 1;
    options.isa = "scalar";
    options.kv_cache = BLYAN_KV_CACHE_F32;
    const blyan::model model(chain, options);
    EXPECT(model.info().threads == 1 && std::string(model.info().isa.data) == "scalar");
    EXPECT(model.snapshot().spec_json() == before.spec_json());
    EXPECT(blyan::hash(model.snapshot().info().root) == blyan::hash(after.info().root));
    // The chain has one model still, the newest.
    EXPECT(blyan::hash(blyan::model(chain).info().model) == published);
}

// That change once more: found by its names, compared, sent to another chain, rolled back, collected.
void streams(const blyan::chain &chain)
{
    std::stringstream stream;
    const std::uint64_t bytes = chain.bundle(stream).bytes;
    EXPECT(bytes == stream.str().size());
    blyan::chain other = blyan::chain::in_memory();
    EXPECT(other.unbundle(stream).blocks_new == chain.size() && other.root() == chain.root());
    std::istringstream cut(stream.str().substr(0, 1000));
    EXPECT(status_of([&] { other.unbundle(cut); }) == BLYAN_STATUS_BUNDLE);
    std::ostringstream broken;
    broken.setstate(std::ios_base::badbit);
    std::ofstream unopened("no such folder/bundle", std::ios_base::binary);
    EXPECT(unopened.fail() && !unopened.bad());
    const auto fails = [](const auto &call) {
        try {
            call();
        } catch (const std::ios_base::failure &) {
            return true;
        }
        return false;
    };
    EXPECT(fails([&] { chain.bundle(broken); }) && fails([&] { chain.bundle(unopened); }));
    std::istream nowhere(nullptr);
    std::ifstream missing("no such folder/bundle", std::ios_base::binary);
    EXPECT(missing.fail() && !missing.bad());
    EXPECT(fails([&] { other.unbundle(nowhere); }) && fails([&] { other.unbundle(missing); }));
    blyan::bundle_options stopping;
    stopping.on_progress = [](const blyan::progress &) { return false; };
    EXPECT(status_of([&] { chain.bundle(stream, stopping); }) == BLYAN_STATUS_STOPPED);
}

void history(blyan::chain &chain, const std::string &folder)
{
    const blyan::hash louder = chain.find_model("latest");
    EXPECT(chain.find_model("louder") == louder && chain.find_model("louder@1.2.3") == louder);
    EXPECT(chain.find_model(louder.hex().substr(0, 16)) == louder);
    EXPECT(status_of([&] { chain.find_model("quieter"); }) == BLYAN_STATUS_NOT_FOUND);
    EXPECT(chain.lineage(louder).size() == 2 && chain.lineage(louder)[0].hash == louder);
    const blyan::hash first = chain.lineage(louder).at(1).hash;
    const blyan::hash expert = chain.find_block("layer1.expert2");
    EXPECT(chain.find_block("layer1.expert2", first.hex()) == chain.lineage(expert).at(1).hash);

    const blyan::hash second_release = chain.release(louder, "louder", "2.0.0");
    EXPECT(chain.find_block("louder") == second_release);
    EXPECT(status_of([&] { chain.release(first, "louder", "1.2.3"); }) == BLYAN_STATUS_REFUSED);
    const auto releases = chain.releases();
    EXPECT(releases.size() == 2 && releases[0].block == second_release && releases[0].model == louder);
    EXPECT(releases[0].version == "2.0.0" && releases[0].predecessor == releases[1].block);
    EXPECT(releases[1].name == "louder" && releases[1].version == "1.2.3" && !releases[1].predecessor);

    // Twice the weights are as far from them as they are from nothing.
    const blyan::snapshot before = blyan::snapshot::open(chain, first);
    const blyan::snapshot after = blyan::snapshot::open(chain, louder);
    EXPECT(before.compare(chain, after).slots.at(0).tensors.empty());
    blyan::compare_options comparing;
    comparing.distances = true;
    int heard = 0;
    comparing.on_progress = [&](const blyan::progress &progress) {
        heard++;
        return progress.blocks == 1 && progress.total_blocks == 1;
    };
    const blyan::comparison compared = before.compare(chain, after, comparing);
    EXPECT(heard == 1 && compared.slots.size() == 1 && blyan::hash(compared.after) == after.info().root);
    EXPECT(compared.loss_tokens == 0);
    blyan::compare_options measuring;
    for (std::uint32_t token = 0; token < 65; token++)
        measuring.tokens.push_back(token * 31);
    measuring.window = 4;
    const blyan::comparison measured = before.compare(chain, after, measuring);
    blyan::evolve::evaluate_options evaluating;
    evaluating.window = 4;
    EXPECT(measured.loss_tokens == 64 && measured.before_loss != measured.after_loss);
    EXPECT(measured.before_loss == blyan::evolve::evaluate(chain, before, measuring.tokens, evaluating).loss);
    EXPECT(measured.after_loss == blyan::evolve::evaluate(chain, after, measuring.tokens, evaluating).loss);
    const blyan::slot_diff &slot = compared.slots.at(0);
    EXPECT(slot.name == "layer1.expert2" && slot.after == expert && slot.before && !slot.same_payload);
    EXPECT(compared.new_payload_bytes == slot.after_bytes && slot.tensors.size() == 3);
    for (const blyan::tensor_diff &tensor : slot.tensors) {
        EXPECT(tensor.after_dtype == BLYAN_DTYPE_F32 && tensor.before_dtype != BLYAN_DTYPE_KEEP);
        EXPECT(tensor.before_shape == tensor.after_shape && tensor.after_shape.size() == 2);
        EXPECT(tensor.relative_norm == 1.0 && tensor.norm > 0.0 && tensor.max_abs > 0.0);
    }

    blyan::model_options options;
    options.name = "louder@1.2.3";
    EXPECT(blyan::hash(blyan::model(chain, options).info().model) == louder);
    options.model = louder;
    EXPECT(status_of([&] { blyan::model(chain, options); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    options.name = "";
    options.model = first;
    options.overlay = {expert};
    EXPECT(blyan::hash(blyan::model(chain, options).info().root) == after.info().root);
    options.overlay.push_back(expert);
    EXPECT(status_of([&] { blyan::model(chain, options); }) == BLYAN_STATUS_INVALID_ARGUMENT);

    // All of it, and then what came after.
    const std::string all = folder + "/all.bundle", news = folder + "/news.bundle";
    blyan::chain other = blyan::chain::in_memory();
    EXPECT(chain.bundle_file(all).blocks == chain.size());
    const blyan_unbundle_info taken = other.unbundle_file(all);
    EXPECT(taken.blocks_new == chain.size() && taken.signatures_new > 0 && other.root() == chain.root());
    EXPECT(blyan::hash(taken.root) == other.root() && other.unbundle_file(all).blocks_new == 0);
    streams(chain);
    const blyan::hash back = chain.rollback(louder, first, "too loud");
    EXPECT(chain.find_model("latest") == back && chain.lineage(back).size() == 3);
    EXPECT(blyan::hash(blyan::snapshot::open(chain, back).info().root) == before.info().root);
    EXPECT(status_of([&] { chain.rollback(first, louder, "never"); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    EXPECT(chain.migrate(louder, first, "the same in other words") == back);
    EXPECT(status_of([&] { chain.migrate(back, expert, "no model"); }) == BLYAN_STATUS_WRONG_BLOCK);
    blyan::bundle_options sending;
    sending.known = other.tips(BLYAN_LANE_META);
    for (const blyan::hash &tip : other.tips(BLYAN_LANE_PARAMETER))
        sending.known.push_back(tip);
    EXPECT(chain.bundle_file(news, sending).blocks == 1);
    blyan::chain empty = blyan::chain::in_memory();
    EXPECT(status_of([&] { empty.unbundle_file(news); }) == BLYAN_STATUS_BUNDLE && empty.size() == 0);
    EXPECT(other.unbundle_file(news).blocks_new == 1 && other.root() == chain.root());
    sending.blocks = std::vector<blyan::hash>();
    EXPECT(chain.bundle_file(news, sending).blocks == 0);

    // The release needs what the latest model does not.
    blyan::collect_options collecting;
    collecting.dry_run = true;
    EXPECT(chain.collect(collecting).blocks.empty());
    collecting.roots = {back};
    EXPECT(chain.collect(collecting).blocks == std::vector<blyan::hash>{expert});
    EXPECT(chain.payload(expert).bytes().size() == slot.after_bytes);
    collecting.dry_run = false;
    EXPECT(chain.collect(collecting).payload_bytes == slot.after_bytes);
    EXPECT(status_of([&] { chain.payload(expert); }) == BLYAN_STATUS_COLLECTED);
    EXPECT(status_of([&] { before.compare(chain, after, comparing); }) == BLYAN_STATUS_COLLECTED);
    EXPECT(chain.verify().ok() && chain.verify().collected == std::vector<blyan::hash>{expert});
    EXPECT(chain.unbundle_file(all).payload_bytes_new == slot.after_bytes);
    EXPECT(chain.payload(expert).bytes().size() == slot.after_bytes && chain.verify().collected.empty());
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::cerr << "api MODEL_DIR EMPTY_DIR\n";
        return 2;
    }
    try {
        blyan::check_version();
        EXPECT(std::string(blyan::version()).find('.') != std::string::npos);
        blyan::set_log_callback([](void *, std::int32_t, blyan_str, blyan_str) noexcept {}, nullptr,
                                BLYAN_LOG_LEVEL_TRACE);
        blyan::set_log_callback(nullptr, nullptr, 0);
        blyan::chain chain = blyan::chain::in_memory();
        EXPECT(!chain.import_checkpoint(argv[1]).ignored_files.empty());
        {
            const blyan::model model(chain);
            callbacks_throw(chain, model, argv[1]);
            generations(chain, model);
            usage(model);
        }
        special_tokens(argv[1], argv[2]);
        four_bits();
        blocks(chain, argv[2]);
        change_an_expert(chain);
        history(chain, argv[2]);
    } catch (const std::exception &error) {
        std::cerr << "api: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
    std::cout << failures << " failures\n";
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
