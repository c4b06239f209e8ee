// Growth, deltas and evidence of blyan.hpp: every class and function once.
//
//     evolve MODEL_DIR EMPTY_DIR

#include "check.hpp"

#include <blyan.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>

namespace {

namespace evolve = blyan::evolve;

struct mine {};

const char *const SLOT = "layer3.expert7";
const std::string TEXT =
    "And I heard a great voice out of the temple saying to the seven angels, Go your ways, and pour "
    "out the vials of the wrath of God upon the earth. And the first went, and poured out his vial "
    "upon the earth; and there fell a noisome and grievous sore upon the men which had the mark of the "
    "beast, and upon them which worshipped his image. And the second angel poured out his vial upon "
    "the sea; and it became as the blood of a dead man: and every living soul died in the sea. And the "
    "third angel poured out his vial upon the rivers and fountains of waters; and they became blood.";

evolve::key key_of(std::uint8_t seed)
{
    std::array<std::uint8_t, BLYAN_SECRET_KEY_SIZE> secret;
    secret.fill(seed);
    return evolve::key({secret.data(), secret.size()});
}

blyan::slot slot_of(const blyan::snapshot &snapshot, const std::string &name)
{
    const auto slots = snapshot.slots();
    const auto found =
        std::find_if(slots.begin(), slots.end(), [&](const blyan::slot &slot) { return slot.name == name; });
    EXPECT(found != slots.end());
    return *found;
}

bool same(blyan::span<const std::byte> a, blyan::span<const std::byte> b)
{
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

void grows(blyan::chain &chain, const blyan::snapshot &base)
{
    const blyan::slot router = slot_of(base, "layer1.router");
    const blyan::tensors tensors = chain.tensors(router.block);
    blyan_tensor gate = tensors["gate.weight"];
    const std::size_t row_bytes = gate.nbytes / gate.dims[0];
    const auto *first = static_cast<const std::byte *>(gate.data);
    std::vector<std::byte> rows(first, first + gate.nbytes);
    rows.insert(rows.end(), first, first + row_bytes);
    const std::size_t dims[] = {gate.dims[0] + 1, gate.dims[1]};
    gate.dims = dims;
    gate.data = rows.data();
    gate.nbytes = rows.size();
    const blyan::payload wider = blyan::write_tensors({gate});
    const blyan::payload expert = chain.payload(slot_of(base, "layer1.expert0").block);
    blyan::layer_growth layer;
    layer.layer = 1;
    EXPECT(status_of([&] { blyan::grow(chain, base, {layer}); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    layer.experts = {expert.bytes()};
    layer.router = wider.bytes();
    const blyan::snapshot grown = blyan::grow(chain, base, {layer});
    EXPECT(grown.info().slots_len == base.info().slots_len + 1);
    EXPECT(same(chain.payload(slot_of(grown, "layer1.expert8").block).bytes(), expert.bytes()));
}

void deltas(blyan::chain &chain, const blyan::snapshot &base)
{
    const blyan::hash block = slot_of(base, SLOT).block;
    // A half more in the last row of gate_proj.
    const std::size_t a_dims[] = {1, 192}, b_dims[] = {256, 1};
    std::vector<float> a(192, 0.5f), b(256, 0.0f);
    b[255] = 1;
    blyan_tensor factors[2] = {};
    factors[0] = {{"gate_proj.lora_A.weight", BLYAN_NUL}, a.data(), 192 * 4, a_dims, 2, BLYAN_DTYPE_F32, 0};
    factors[1] = {{"gate_proj.lora_B.weight", BLYAN_NUL}, b.data(), 256 * 4, b_dims, 2, BLYAN_DTYPE_F32, 0};
    const blyan::payload difference = blyan::write_tensors({factors[0], factors[1]});
    const blyan::hash delta = blyan::delta::append(chain, block, difference.bytes());
    const blyan::hash payload = blyan::delta::merged_hash(chain, delta);
    const blyan::hash merged = blyan::delta::merge(chain, delta);
    EXPECT(chain.at(merged).payload == payload && chain.at(delta).kind_name == "delta");
    EXPECT(!blyan::delta::materialise(chain, merged));
    const blyan::payload applied = blyan::delta::apply(chain.payload(block).bytes(), difference.bytes());
    EXPECT(same(applied.bytes(), blyan::delta::merged_payload(chain, merged).bytes()));
    const std::vector<float> before = chain.tensors(block).to_f32("gate_proj.weight");
    const std::vector<float> after = chain.tensors(merged).to_f32("gate_proj.weight");
    for (std::size_t i = 0; i < before.size(); i++) {
        const float expected = i / 192 == 255 ? 0.5f : 0.0f;
        EXPECT(std::abs(after[i] - before[i] - expected) <= 0.01f * expected);
    }
    EXPECT(status_of([&] { blyan::delta::apply(difference.bytes(), difference.bytes()); }) ==
           BLYAN_STATUS_TENSOR);
    EXPECT(status_of([&] { blyan::delta::merge(chain, block); }) == BLYAN_STATUS_WRONG_BLOCK);
}

// A model whose expert does the opposite: what it was is better.
blyan::hash damaged(blyan::chain &chain, const blyan::snapshot &base)
{
    const blyan::hash block = slot_of(base, SLOT).block;
    const blyan::tensors tensors = chain.tensors(block);
    std::vector<std::byte> turned;
    std::vector<blyan_tensor> written;
    for (const blyan::tensor &tensor : tensors) {
        written.push_back(tensor);
        if (tensor.label() == "down_proj.weight") {
            turned.assign(tensor.bytes().begin(), tensor.bytes().end());
            for (std::size_t i = 1; i < turned.size(); i += 2)
                turned[i] ^= std::byte{0x80};
            written.back().data = turned.data();
        }
    }
    const blyan::payload payload = blyan::write_tensors(written);
    blyan::draft draft;
    draft.kind = blyan::kind_from_name("expert");
    draft.name = SLOT;
    draft.version = "1.0.1";
    draft.parents = {{base.info().spec, BLYAN_ROLE_DEPENDENCY}, {block, BLYAN_ROLE_PREDECESSOR}};
    draft.payload = payload.bytes();
    return base.with_block(chain, chain.append(draft)).publish(chain);
}

blyan::hash datasets(blyan::chain &chain, const blyan::hash &model, const evolve::key &key)
{
    evolve::policy policy;
    policy.model = model;
    EXPECT(status_of([&] { evolve::append_policy(chain, policy); }) == BLYAN_STATUS_REFUSED);
    policy.validators = policy.voters = {key.public_key()};
    policy.window = 16;
    policy.threshold_ppm = 500;
    for (const std::int32_t none : {-1, 3, 32}) {
        policy.tiers = {none};
        EXPECT(status_of([&] { evolve::append_policy(chain, policy); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    }
    policy.tiers = {BLYAN_TIER_GOLD, BLYAN_TIER_SILVER};
    const blyan::hash rules = evolve::append_policy(chain, policy);
    const std::string json = evolve::policy_json(chain, rules);
    EXPECT(json.find("\"voters\":[\"" + key.public_key().hex() + "\"]") != std::string::npos);
    EXPECT(json.find("\"tiers\":[\"gold\",\"silver\"]") != std::string::npos);

    const blyan::snapshot snapshot = blyan::snapshot::open(chain, model);
    const std::vector<std::uint32_t> tokens = evolve::tokenize(chain, snapshot, "In the beginning");
    evolve::dataset_draft draft;
    draft.name = "beginning";
    draft.license = "CC0-1.0";
    draft.source = "the King James Bible";
    draft.tier = BLYAN_TIER_GOLD;
    draft.text = "In the beginning";
    EXPECT(status_of([&] { evolve::propose_dataset(chain, draft); }) == BLYAN_STATUS_INVALID_ARGUMENT);
    draft.snapshot = &snapshot;
    const blyan::hash dataset = evolve::propose_dataset(chain, draft);
    // The same tokens as numbers are another dataset.
    draft.text.reset();
    draft.snapshot = nullptr;
    draft.tokens = tokens;
    draft.vocab_size = 2048;
    const blyan::hash twin = evolve::propose_dataset(chain, draft);
    EXPECT(twin != dataset && evolve::datasets(chain, rules).size() == 2);

    // Said by hand, an audit is the same block.
    const std::string found = evolve::recompute_dataset_audit_json(chain, rules, dataset);
    const evolve::statement said = evolve::statement::sign(key, blyan::kind_from_name("audit"), found);
    const blyan::hash by_hand = said.append(chain);
    const blyan::hash audit = evolve::audit_dataset(chain, rules, dataset, key);
    EXPECT(audit == by_hand && evolve::statement::open(chain, audit).to_json() == said.to_json());
    EXPECT(evolve::public_key(said.info().key) == key.public_key() && said.info().kind == chain.at(audit).kind);
    evolve::check_dataset_audit(chain, audit);
    evolve::vote(chain, rules, dataset, key, true);
    const blyan::hash tally = evolve::tally(chain, rules, dataset);
    const blyan::hash ruling = evolve::rule(chain, rules, dataset);
    const evolve::dataset_state state = evolve::datasets(chain, rules, dataset).at(0);
    EXPECT(state.stage == BLYAN_STAGE_ACCEPTED && state.tier == BLYAN_TIER_GOLD && state.name == "beginning");
    EXPECT(state.tally == tally && state.ruling == ruling && !state.duplicate_of && state.version == "1.0.0");
    EXPECT(state.num_tokens == tokens.size() && state.audits == 1 && state.votes == 1);
    EXPECT(evolve::datasets_json(chain, rules, dataset).find(twin.hex()) != std::string::npos);
    EXPECT(status_of([&] { evolve::rule(chain, rules, twin); }) == BLYAN_STATUS_STEP);
    return rules;
}

void evaluation(const blyan::chain &chain, const blyan::snapshot &snapshot,
                const std::vector<std::uint32_t> &tokens)
{
    evolve::evaluate_options options;
    options.window = 16;
    options.pass_tokens = 16;
    std::uint64_t heard = 0;
    options.on_progress = [&](const evolve::evaluate_progress &progress) {
        heard = progress.tokens;
        return progress.total_tokens == tokens.size() - 1;
    };
    const evolve::evaluation found = evolve::evaluate(chain, snapshot, tokens, options);
    EXPECT(heard == tokens.size() - 1 && found.tokens == heard && found.loss > 0);
    EXPECT(blyan::hash(found.model_root) == snapshot.info().root);
    // However it is computed.
    options.on_progress = nullptr;
    options.pass_tokens = 1024;
    options.threads = 1;
    options.isa = "scalar";
    EXPECT(evolve::evaluate(chain, snapshot, tokens, options).loss == found.loss);
    EXPECT(evolve::evaluate(blyan::model(chain, snapshot), tokens, options).loss == found.loss);
    const auto together = evolve::evaluate_together(chain, snapshot, {&snapshot}, tokens, options);
    EXPECT(together.size() == 2 && together[0].loss == found.loss && together[1].loss == found.loss);
    EXPECT(evolve::evaluate_together(chain, snapshot, {}, tokens, options).size() == 1);
    EXPECT(status_of([&] { evolve::evaluate_together(chain, snapshot, {&snapshot}, {1}); }) ==
           BLYAN_STATUS_INVALID_ARGUMENT);
    options.on_progress = [](const evolve::evaluate_progress &) -> bool { throw mine(); };
    bool caught = false;
    try {
        evolve::evaluate(chain, snapshot, tokens, options);
    } catch (const mine &) {
        caught = true;
    }
    EXPECT(caught);
    options.on_progress = [](const evolve::evaluate_progress &) { return false; };
    EXPECT(status_of([&] { evolve::evaluate(chain, snapshot, tokens, options); }) == BLYAN_STATUS_STOPPED);
    blyan::cancel cancel;
    cancel.set();
    options.on_progress = nullptr;
    options.cancel = &cancel;
    EXPECT(status_of([&] { evolve::evaluate(chain, snapshot, tokens, options); }) == BLYAN_STATUS_CANCELLED);
}

// By another implementation of ed25519 and BLAKE3.
void statements(const evolve::key &key)
{
    const std::string signed_remark =
        "{\"statement_version\":1,\"body\":{\"text\":\"so it is\",\"count\":1},\"key\":"
        "\"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c\",\"signature\":"
        "\"2d2f419a4e7c291e844176617783620fb6646817d552139be4c7d77ff7412cb8"
        "1c6a47e1c017926c282ef5850086a57dd6f210146f1e2b6605b52ee01f4db503\"}";
    const auto said = evolve::statement::sign(key, 5000, "{\"text\": \"so it is\", \"count\": 1}");
    EXPECT(said.to_json() == signed_remark && said.info().kind == 5000);
    EXPECT(evolve::statement::from_json(5000, signed_remark).to_json() == signed_remark);
    EXPECT(status_of([&] { evolve::statement::from_json(5001, signed_remark); }) == BLYAN_STATUS_EVIDENCE);
    EXPECT(status_of([&] { evolve::statement::sign(key, 1, "{}"); }) == BLYAN_STATUS_EVIDENCE);

    blyan::hash base, salt, block;
    std::memset(base.bytes, 3, sizeof base.bytes);
    std::memset(block.bytes, 4, sizeof block.bytes);
    std::memset(salt.bytes, 7, sizeof salt.bytes);
    const blyan::hash root = evolve::candidate_root(base, {{"layer0.expert1", block}});
    EXPECT(root.hex() == "a7fef1e6fc629e5e3ee80f66eb9e50607a435534d196d5adb4b556d0db2e12c4");
    EXPECT(evolve::claim_commitment(salt, key.public_key(), root).hex() ==
           "17b66cfd032ae6d66266fd55f6fc0e887645393881404769b19bb6f65abcfc88");
    const auto split = evolve::split_commitment(
        blyan::hash::from_hex("2b98c7abcc8053aba6598161755731bf1a4dff8fdc83ea4cb75023e50386ea1d"),
        blyan::hash::from_hex("89b2c8d28a8e528422c2aab829252eb2a761fa0e3de24e39484afc46cfad3220"));
    EXPECT(split.hex() == "2b14b2e01e53f0d17e3c3608f946b5fbeb9ed0104ffe3e7272a52132fcb8e227");
}

void whole_round(blyan::chain &chain, const blyan::hash &trained, const blyan::hash &model,
                 const blyan::hash &rules, const evolve::key &owner, const std::string &folder)
{
    const evolve::key author = key_of(9);
    const blyan::snapshot base = blyan::snapshot::open(chain, model);
    const std::vector<std::uint32_t> split = evolve::tokenize(chain, base, TEXT);
    evaluation(chain, base, split);

    // The same weights out of the model that they are in, and out of a checkpoint.
    evolve::extract_options extracting;
    extracting.source = &chain;
    extracting.model = trained;
    const evolve::extract_report report = evolve::extract(chain, model, {{SLOT, "", {}}}, extracting);
    EXPECT(report.blocks.size() == 1 && report.blocks[0].new_block && !report.blocks[0].new_payload);
    EXPECT(report.blocks[0].slot == SLOT && report.blocks_new == 1);
    const blyan::hash better = report.blocks[0].block;
    extracting.source = nullptr;
    extracting.model.reset();
    extracting.checkpoint = folder;
    extracting.dry_run = true;
    const auto again = evolve::extract(chain, model, {{SLOT, SLOT, {}}}, extracting);
    EXPECT(again.blocks.at(0).block == better && !again.blocks[0].new_block);
    // Rows: too few for this model's experts, and one that is not there.
    evolve::piece some{SLOT, "", std::vector<std::size_t>{1, 0}};
    EXPECT(status_of([&] { evolve::extract(chain, model, {some}, extracting); }) == BLYAN_STATUS_TENSOR);
    some.rows = std::vector<std::size_t>{1000};
    EXPECT(status_of([&] { evolve::extract(chain, model, {some}, extracting); }) ==
           BLYAN_STATUS_INVALID_ARGUMENT);
    const evolve::candidate_blocks blocks = {{SLOT, better}};

    const blyan::hash round = evolve::open_round(chain, owner, rules, split);
    EXPECT(evolve::claims(chain, round).empty());
    EXPECT(evolve::contribute(chain, author, round, blocks, true).stage == BLYAN_CONTRIBUTE_STAGE_CLAIMED);
    const blyan_contribution claimed = evolve::contribute(chain, author, round, blocks);
    EXPECT(evolve::claim(chain, author, round, blocks) == blyan::hash(claimed.claim));
    const auto claims = evolve::claims(chain, round);
    EXPECT(claims.size() == 1 && claims[0].first == blyan::hash(claimed.claim) &&
           claims[0].second == author.public_key());
    evolve::close_round(chain, owner, round);
    const blyan::hash candidate = evolve::propose(chain, author, claimed.claim, blocks);
    EXPECT(blyan::hash(evolve::contribute(chain, author, round, blocks).candidate) == candidate);
    const blyan::hash reveal = evolve::reveal(chain, owner, round, split);
    const std::vector<blyan::hash> attested = evolve::attest(chain, owner, reveal);
    EXPECT(attested.size() == 1 && evolve::attest(chain, owner, reveal, std::vector{candidate}) == attested);
    EXPECT(status_of([&] { evolve::attest(chain, author, reveal); }) == BLYAN_STATUS_EVIDENCE);
    const evolve::audit_report audit = evolve::audit(chain, rules);
    EXPECT(audit.info().checked == 1 && audit.lies().empty());
    EXPECT(audit.json() == "{\"checked\":1,\"lies\":[],\"other_numerics\":[],\"collected\":[]}");
    EXPECT(evolve::audit(chain, rules, &owner).info().lies_len == 0);
    EXPECT(status_of([&] { audit.accuse(0, chain, rules, owner); }) == BLYAN_STATUS_INVALID_ARGUMENT);

    const evolve::judgement judgement = evolve::judge(chain, rules);
    EXPECT(judgement.info().rounds_len == 1 && judgement.info().faults_len == 0);
    const evolve::round_state shown = judgement.rounds().at(0);
    EXPECT(shown.round == round && shown.owner == owner.public_key() && shown.refused.empty());
    EXPECT(!shown.previous && shown.closings == 1 && shown.reveals == 1 && shown.accepted == 1);
    const evolve::candidate_state state = judgement.candidates().at(0);
    EXPECT(state.accepted && state.refused.empty() && state.author == author.public_key());
    EXPECT(state.candidate == candidate && state.validators == 1 && state.loss < state.base_loss);
    EXPECT(blyan::hash(judgement.chosen().root) ==
           blyan::hash(evolve::snapshot_of(chain, {candidate}).info().root));
    EXPECT(blyan::hash(judgement.chosen(round).model) == model);
    EXPECT(judgement.json().find(candidate.hex()) != std::string::npos);
    const blyan::hash published = judgement.publish(chain);
    const auto released = judgement.release(chain, "kjv", "2.0.0");
    EXPECT(released.first == published && chain.find_block("kjv") == released.second);
    EXPECT(slot_of(blyan::snapshot::open(chain, published), SLOT).payload ==
           slot_of(blyan::snapshot::open(chain, trained), SLOT).payload);

    blyan::model_options options;
    options.model = published;
    blyan::generate_options generating;
    generating.max_tokens = 2;
    const blyan::receipt receipt = blyan::model(chain, options).generate(TEXT, generating).receipt();
    const blyan::hash used = evolve::append_receipt(chain, receipt);
    const blyan::hash record = evolve::record_usage(chain, rules, reveal, {used}, owner);
    EXPECT(evolve::audit_usage(chain, record).empty());
    const std::string uses = evolve::recorded_uses_json(chain, rules);
    EXPECT(uses.find(used.hex()) != std::string::npos);
    EXPECT(uses.find("\"run\":\"" + evolve::run_of(receipt).hex() + "\",\"tokens\":" +
                     evolve::uses_json(chain, receipt)) != std::string::npos);
    const evolve::ledger ledger(chain, rules);
    EXPECT(ledger.periods() == 1 && ledger.rewards(1, 100).empty());
    const auto shares = ledger.rewards(0, 100);
    EXPECT(shares.size() == 1 && shares[0].units == 100);
    EXPECT(evolve::public_key(shares[0].author) == author.public_key());
    EXPECT(ledger.credits_json(0).find(author.public_key().hex()) != std::string::npos);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::cerr << "evolve MODEL_DIR EMPTY_DIR\n";
        return 2;
    }
    try {
        const evolve::key owner = key_of(1);
        const evolve::public_key named = owner.public_key();
        EXPECT(evolve::public_key::from_hex(named.hex()) == named && !(named < named));
        EXPECT(named != key_of(2).public_key());
        statements(owner);
        blyan::chain chain = blyan::chain::in_memory();
        const blyan::hash trained = chain.import_checkpoint(argv[1]).model;
        const blyan::snapshot base = blyan::snapshot::open(chain, trained);
        grows(chain, base);
        deltas(chain, base);
        const blyan::hash model = damaged(chain, base);
        const blyan::hash rules = datasets(chain, model, owner);
        whole_round(chain, trained, model, rules, owner, argv[1]);
    } catch (const std::exception &error) {
        std::cerr << "evolve: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
    std::cout << failures << " failures\n";
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
