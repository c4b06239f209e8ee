/* A dataset that is accepted, and a whole round: two experts are damaged, one author has what they were. */
#include "evolve.h"

#include <math.h>

/* By Python's `cryptography` from secrets of 32 times that byte. */
#define PUBLIC_1 "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
#define PUBLIC_2 "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"

/* By another implementation of BLAKE3, for the tokens 3 to 35 and the secret of 32 times 1:
 * salt = derive_key("blyan salt 1", secret, 70 as u16, payload hash),
 * split = derive_key("blyan split 1", salt, payload hash). */
#define SPLIT_COMMITMENT "2b14b2e01e53f0d17e3c3608f946b5fbeb9ed0104ffe3e7272a52132fcb8e227"

#define DAMAGED_EXPERT "layer0.expert1"
#define WINDOW 32

/* The model never saw any of this. */
static const char DATASET[] =
    "And I saw another sign in heaven, great and marvellous, seven angels having the seven last "
    "plagues; for in them is filled up the wrath of God. And I saw as it were a sea of glass mingled "
    "with fire: and them that had gotten the victory over the beast, and over his image, and over his "
    "mark, and over the number of his name, stand on the sea of glass, having the harps of God.";
static const char SPLIT[] =
    "And they sing the song of Moses the servant of God, and the song of the Lamb, saying, Great and "
    "marvellous are thy works, Lord God Almighty; just and true are thy ways, thou King of saints. Who "
    "shall not fear thee, O Lord, and glorify thy name? for thou only art holy: for all nations shall "
    "come and worship before thee; for thy judgments are made manifest. And after that I looked, and, "
    "behold, the temple of the tabernacle of the testimony in heaven was opened: And the seven angels "
    "came out of the temple, having the seven plagues, clothed in pure and white linen, and having "
    "their breasts girded with golden girdles.";

static blyan_tokens *tokens_of(const blyan_chain *chain, const blyan_hash *model, const char *text)
{
    blyan_snapshot *snapshot;
    blyan_tokens *tokens;

    MUST(blyan_snapshot_open(chain, model, &snapshot));
    MUST(blyan_snapshot_tokenize(snapshot, chain, text, BLYAN_NUL, &tokens));
    blyan_snapshot_free(snapshot);
    return tokens;
}

static blyan_dataset_state state_of(const blyan_chain *chain, const blyan_hash *policy,
                                    const blyan_hash *dataset)
{
    blyan_dataset_states *states;
    blyan_dataset_state state;

    MUST(blyan_dataset_list(chain, policy, dataset, &states));
    EXPECT_TRUE(blyan_dataset_states_len(states) == 1);
    MUST(blyan_dataset_states_get(states, 0, &state, sizeof state));
    EXPECT_TRUE(strcmp(state.name.data, "revelation") == 0 && strcmp(state.version.data, "1.1.0") == 0);
    blyan_dataset_states_free(states);
    return state;
}

blyan_hash accept_a_dataset(const blyan_chain *chain, const blyan_hash *policy, const blyan_hash *model,
                            const char *text)
{
    blyan_key *validator = key_of(2);
    blyan_key *voter = key_of(1);
    blyan_tokens *tokens = tokens_of(chain, model, text);
    blyan_snapshot *snapshot;
    blyan_dataset_draft draft;
    blyan_dataset_state state;
    blyan_dataset_states *states;
    blyan_payload *payload;
    blyan_text *json;
    blyan_hash dataset, audit, vote, tally, ruling, none;

    MUST(blyan_snapshot_open(chain, model, &snapshot));
    MUST(blyan_dataset_draft_init(&draft, sizeof draft));
    draft.name.data = "revelation";
    draft.name.len = BLYAN_NUL;
    draft.version.data = "1.1.0";
    draft.version.len = BLYAN_NUL;
    draft.license.data = "CC0-1.0";
    draft.license.len = BLYAN_NUL;
    draft.source.data = "the King James Bible";
    draft.source.len = BLYAN_NUL;
    draft.text.data = text;
    draft.text.len = BLYAN_NUL;
    draft.snapshot = snapshot;
    draft.tier = BLYAN_TIER_SILVER;
    MUST(blyan_dataset_propose(chain, &draft, &dataset));
    MUST(blyan_dataset_propose(chain, &draft, &none));
    EXPECT_TRUE(equal(&none, &dataset));
    blyan_snapshot_free(snapshot);

    state = state_of(chain, policy, &dataset);
    EXPECT_TRUE(state.stage == BLYAN_STAGE_PENDING && state.tier == BLYAN_TIER_SILVER && !state.has_tally);
    EXPECT_TRUE(state.num_tokens == blyan_tokens_len(tokens) && equal(&state.dataset, &dataset));
    MUST(blyan_chain_payload(chain, &state.tokens, &payload));
    EXPECT_TRUE(blyan_payload_len(payload) == 4 * blyan_tokens_len(tokens) &&
                memcmp(blyan_payload_data(payload), blyan_tokens_data(tokens), blyan_payload_len(payload)) ==
                    0);
    blyan_payload_free(payload);
    EXPECT(STEP, blyan_dataset_vote(chain, policy, &dataset, voter, true, &none));
    MUST(blyan_dataset_audit(chain, policy, &dataset, validator, &audit));
    EXPECT(OK, blyan_dataset_check_audit(chain, &audit));
    EXPECT_TRUE(says(chain, &audit, "\"out_of_vocabulary\":0"));
    EXPECT_TRUE(state_of(chain, policy, &dataset).stage == BLYAN_STAGE_AUDITED);
    EXPECT(EVIDENCE, blyan_dataset_vote(chain, policy, &dataset, validator, true, &none));
    MUST(blyan_dataset_vote(chain, policy, &dataset, voter, true, &vote));
    EXPECT(STEP, blyan_dataset_rule(chain, policy, &dataset, &none));
    MUST(blyan_dataset_tally(chain, policy, &dataset, &tally));
    EXPECT_TRUE(state_of(chain, policy, &dataset).stage == BLYAN_STAGE_VOTED);
    MUST(blyan_dataset_rule(chain, policy, &dataset, &ruling));

    state = state_of(chain, policy, &dataset);
    EXPECT_TRUE(state.stage == BLYAN_STAGE_ACCEPTED && state.audits_len == 1 && state.votes_len == 1);
    EXPECT_TRUE(state.has_tally && equal(&state.tally, &tally) && !state.has_duplicate_of);
    EXPECT_TRUE(state.has_ruling && equal(&state.ruling, &ruling));
    MUST(blyan_dataset_list(chain, policy, NULL, &states));
    EXPECT_TRUE(blyan_dataset_states_len(states) == 1);
    MUST(blyan_dataset_states_json(states, &json));
    EXPECT_TRUE(holds(json, "\"stage\":\"accepted\""));
    blyan_dataset_states_free(states);
    blyan_tokens_free(tokens);
    blyan_key_free(voter);
    blyan_key_free(validator);
    return dataset;
}

/* The mean loss by the logits of the model, window by window. */
static double loss_by_logits(const blyan_chain *chain, const blyan_hash *model, const uint32_t *tokens,
                             size_t len)
{
    blyan_model_options options;
    blyan_model *opened;
    blyan_model_info info;
    float *logits;
    double sum = 0;
    size_t start, i, j;

    MUST(blyan_model_options_init(&options, sizeof options));
    options.model = model;
    options.kv_cache = BLYAN_KV_CACHE_F32;
    MUST(blyan_model_open(chain, &options, &opened));
    MUST(blyan_model_describe(opened, &info, sizeof info));
    logits = malloc(WINDOW * (size_t)info.vocab_size * sizeof *logits);
    for (start = 0; start + 1 < len; start += WINDOW) {
        size_t count = len - 1 - start < WINDOW ? len - 1 - start : WINDOW;

        MUST(blyan_model_logits(opened, tokens + start, count, logits, count * (size_t)info.vocab_size));
        for (i = 0; i < count; i++) {
            const float *row = logits + i * (size_t)info.vocab_size;
            double exps = 0;

            for (j = 0; j < info.vocab_size; j++)
                exps += exp(row[j]);
            sum += log(exps) - row[tokens[start + i + 1]];
        }
    }
    free(logits);
    blyan_model_free(opened);
    return sum / (double)(len - 1);
}

static double evaluated(const blyan_chain *chain, const blyan_snapshot *snapshot, const blyan_tokens *tokens)
{
    blyan_evaluate_options options;
    blyan_evaluation found;

    MUST(blyan_evaluate_options_init(&options, sizeof options));
    options.window = WINDOW;
    MUST(blyan_snapshot_evaluate(snapshot, chain, blyan_tokens_data(tokens), blyan_tokens_len(tokens),
                                 &options, &found, sizeof found));
    EXPECT_TRUE(found.tokens == blyan_tokens_len(tokens) - 1);
    EXPECT_TRUE(found.windows == (found.tokens + WINDOW - 1) / WINDOW);
    EXPECT_TRUE(fabs(found.perplexity - exp(found.loss)) < 1e-9 * found.perplexity);
    return found.loss;
}

/* Beside each other they lose what each loses alone. */
static void evaluate_together(const blyan_chain *chain, const blyan_snapshot *base,
                              const blyan_snapshot *changed, const blyan_tokens *tokens)
{
    const blyan_snapshot *candidates[2];
    blyan_evaluate_options options;
    blyan_evaluations *evaluations;
    blyan_evaluation found;
    blyan_snapshot_info info;
    size_t i;

    candidates[0] = changed;
    candidates[1] = base;
    MUST(blyan_evaluate_options_init(&options, sizeof options));
    options.window = WINDOW;
    MUST(blyan_snapshot_evaluate_together(base, chain, candidates, 2, blyan_tokens_data(tokens),
                                          blyan_tokens_len(tokens), &options, &evaluations));
    EXPECT_TRUE(blyan_evaluations_len(evaluations) == 3);
    for (i = 0; i < 3; i++) {
        const blyan_snapshot *alone = i == 1 ? changed : base;

        MUST(blyan_evaluations_get(evaluations, i, &found, sizeof found));
        MUST(blyan_snapshot_describe(alone, &info, sizeof info));
        EXPECT_TRUE(found.loss == evaluated(chain, alone, tokens) && equal(&found.model_root, &info.root));
        EXPECT_TRUE(found.tokens == blyan_tokens_len(tokens) - 1);
    }
    blyan_evaluations_free(evaluations);
}

static int count_passes(void *user, const blyan_evaluate_progress *progress)
{
    EXPECT_TRUE(progress->tokens <= progress->total_tokens && progress->tokens_per_second > 0);
    ++*(int *)user;
    return 0;
}

/* The only candidate, as it is judged now. The texts are gone with the judgement. */
static blyan_candidate_state judged(const blyan_chain *chain, const blyan_hash *policy, const char *refused)
{
    blyan_judgement *judgement;
    blyan_judgement_info info;
    blyan_candidate_state state;

    MUST(blyan_judge(chain, policy, &judgement));
    MUST(blyan_judgement_describe(judgement, &info, sizeof info));
    EXPECT_TRUE(info.candidates_len == 1 && info.rounds_len == 1 && info.faults_len == 0);
    MUST(blyan_judgement_candidate(judgement, 0, &state, sizeof state));
    EXPECT_TRUE(strcmp(state.refused.data, refused) == 0);
    EXPECT_TRUE((state.message.len > 0) == (*refused != '\0') && state.accepted == (*refused == '\0'));
    blyan_judgement_free(judgement);
    return state;
}

struct world {
    blyan_chain *chain;
    blyan_key *owner, *validator, *author;
    /* What was trained, and what it became: the policy begins with that. */
    blyan_hash trained, model;
    blyan_hash policy;
    blyan_tokens *split;
    /* What is proposed. */
    blyan_slot_block better;
};

static void make_policy(struct world *world)
{
    blyan_public_key validators[2];
    blyan_policy policy;
    blyan_text *json;
    blyan_hash first, dataset;
    char expected[1024];

    validators[0] = public_of(world->owner);
    validators[1] = public_of(world->validator);
    MUST(blyan_policy_init(&policy, sizeof policy));
    EXPECT_TRUE(policy.threshold_ppm == 10000 && policy.tolerance_ppm == 1000 && policy.window == 256);
    policy.model = &world->model;
    policy.validators = validators;
    policy.validators_len = 2;
    policy.voters = validators;
    policy.voters_len = 1;
    policy.threshold_ppm = 1000;
    policy.window = WINDOW;
    MUST(blyan_policy_append(world->chain, &policy, &first));
    MUST(blyan_policy_json(world->chain, &first, &json));
    snprintf(expected, sizeof expected,
             "{\"policy_version\":1,\"model\":\"%s\",\"predecessor\":null,\"validators\":[\"%s\",\"%s\"],"
             "\"required\":2,\"threshold_ppm\":1000,\"tolerance_ppm\":1000,\"datasets\":[],"
             "\"voters\":[\"%s\"],\"quorum\":1,\"approval_ppm\":500001,\"window\":32,"
             "\"tiers\":[\"gold\",\"silver\",\"experimental\"]}",
             hex_of(&world->model), PUBLIC_2, PUBLIC_1, PUBLIC_1);
    EXPECT_TRUE(strcmp(blyan_text_get(json).data, expected) == 0);
    blyan_text_free(json);

    /* The policy that counts has a dataset on which nobody may do harm. */
    dataset = accept_a_dataset(world->chain, &first, &world->model, DATASET);
    policy.predecessor = &first;
    policy.datasets = &dataset;
    policy.datasets_len = 1;
    MUST(blyan_policy_append(world->chain, &policy, &world->policy));
}

static void make_world(struct world *world, const char *folder)
{
    blyan_snapshot *trained;
    blyan_snapshot *damaged;
    blyan_hash block;
    blyan_extract_options options;
    blyan_extract_piece piece;
    blyan_extract_report *report;
    blyan_extract_info info;
    blyan_extracted_block extracted;
    blyan_slot before;
    uint64_t len, len_after;

    MUST(blyan_chain_in_memory(&world->chain));
    MUST(blyan_import_checkpoint(world->chain, folder, BLYAN_NUL, NULL, NULL));
    MUST(blyan_chain_find_model(world->chain, "latest", BLYAN_NUL, &world->trained));
    MUST(blyan_snapshot_open(world->chain, &world->trained, &trained));
    block = negated(world->chain, &world->trained, DAMAGED_EXPERT);
    MUST(blyan_snapshot_with_block(trained, world->chain, &block, &damaged));
    MUST(blyan_snapshot_publish(damaged, world->chain, &world->model));
    blyan_snapshot_free(damaged);
    blyan_snapshot_free(trained);

    world->owner = key_of(1);
    world->validator = key_of(2);
    world->author = key_of(11);
    make_policy(world);
    world->split = tokens_of(world->chain, &world->model, SPLIT);
    EXPECT_TRUE(blyan_tokens_len(world->split) > 3 * WINDOW);

    /* The trained expert's weights as a block for the damaged model. */
    memset(&piece, 0, sizeof piece);
    piece.source.data = DAMAGED_EXPERT;
    piece.source.len = BLYAN_NUL;
    MUST(blyan_extract_options_init(&options, sizeof options));
    options.source = world->chain;
    options.model = &world->trained;
    options.dry_run = 1;
    MUST(blyan_chain_len(world->chain, &len));
    MUST(blyan_extract(world->chain, &world->model, &piece, 1, &options, &report));
    blyan_extract_report_free(report);
    MUST(blyan_chain_len(world->chain, &len_after));
    EXPECT_TRUE(len_after == len);
    options.dry_run = 0;
    MUST(blyan_extract(world->chain, &world->model, &piece, 1, &options, &report));
    MUST(blyan_extract_report_describe(report, &info, sizeof info));
    EXPECT_TRUE(info.blocks_len == 1 && info.blocks_new == 1 && info.payload_bytes_new == 0);
    MUST(blyan_extract_report_block(report, 0, &extracted, sizeof extracted));
    before = slot_of(world->chain, &world->trained, DAMAGED_EXPERT);
    EXPECT_TRUE(strcmp(extracted.slot.data, DAMAGED_EXPERT) == 0 && extracted.new_block);
    EXPECT_TRUE(equal(&extracted.payload, &before.payload) && !equal(&extracted.block, &before.block));
    EXPECT_TRUE(extracted.payload_bytes == before.payload_bytes && !extracted.new_payload);
    world->better.slot.data = DAMAGED_EXPERT;
    world->better.slot.len = BLYAN_NUL;
    world->better.block = extracted.block;
    blyan_extract_report_free(report);
}

/* From the opening to the reveal, which judges the candidate. */
static blyan_hash show(const struct world *world, blyan_hash *round, blyan_hash *candidate)
{
    const blyan_chain *chain = world->chain;
    const uint32_t *split = blyan_tokens_data(world->split);
    const size_t split_len = blyan_tokens_len(world->split);
    blyan_public_key author = public_of(world->author);
    blyan_public_key claimed;
    blyan_claims *claims;
    blyan_contribution step;
    blyan_hash claim, closing, reveal, none;

    MUST(blyan_round_open(chain, world->owner, &world->policy, split, split_len, round));
    EXPECT(STEP, blyan_round_close(chain, world->owner, round, &closing));
    EXPECT_TRUE(names(round));
    MUST(blyan_contribute(chain, world->author, round, &world->better, 1, true, &step, sizeof step));
    EXPECT_TRUE(step.stage == BLYAN_CONTRIBUTE_STAGE_CLAIMED && step.has_appended && !step.has_candidate);
    none = step.claim;
    MUST(blyan_round_claims(chain, round, &claims));
    EXPECT_TRUE(blyan_claims_len(claims) == 0);
    blyan_claims_free(claims);
    MUST(blyan_round_claim(chain, world->author, round, &world->better, 1, &claim));
    EXPECT_TRUE(equal(&none, &claim));
    MUST(blyan_round_claims(chain, round, &claims));
    EXPECT_TRUE(blyan_claims_len(claims) == 1);
    MUST(blyan_claims_get(claims, 0, &none, &claimed));
    EXPECT_TRUE(equal(&none, &claim) && memcmp(&claimed, &author, sizeof author) == 0);
    blyan_claims_free(claims);
    EXPECT(STEP, blyan_round_propose(chain, world->author, &claim, &world->better, 1, candidate));
    EXPECT(REFUSED, blyan_round_close(chain, world->validator, round, &closing));
    MUST(blyan_round_close(chain, world->owner, round, &closing));
    EXPECT(STEP, blyan_round_close(chain, world->owner, round, &none));
    EXPECT_TRUE(names(&closing));
    EXPECT(STEP, blyan_round_reveal(chain, world->owner, round, split, split_len, &reveal));
    MUST(blyan_round_propose(chain, world->author, &claim, &world->better, 1, candidate));
    MUST(blyan_contribute(chain, world->author, round, &world->better, 1, false, &step, sizeof step));
    EXPECT_TRUE(step.stage == BLYAN_CONTRIBUTE_STAGE_PROPOSED && !step.has_appended && step.has_candidate);
    EXPECT_TRUE(equal(&step.candidate, candidate) && equal(&step.claim, &claim));
    judged(chain, &world->policy, "not_revealed");
    /* Another split than was committed to. */
    EXPECT(REFUSED, blyan_round_reveal(chain, world->owner, round, split, split_len - 1, &reveal));
    MUST(blyan_round_reveal(chain, world->owner, round, split, split_len, &reveal));
    EXPECT(STEP, blyan_round_reveal(chain, world->owner, round, split, split_len, &none));
    EXPECT_TRUE(names(&reveal));
    MUST(blyan_contribute(chain, world->author, round, &world->better, 1, true, &step, sizeof step));
    EXPECT_TRUE(step.stage == BLYAN_CONTRIBUTE_STAGE_REVEALED && !step.has_appended);
    return reveal;
}

/* Two validators measure, and agree. */
static void attest(const struct world *world, const blyan_hash *reveal, const blyan_hash *candidate)
{
    blyan_evaluate_options options;
    blyan_hashes *attestations;
    blyan_audit_report *report;
    blyan_audit_info info;
    blyan_text *json;
    blyan_hash first, again;
    int passes = 0;

    EXPECT(EVIDENCE, blyan_attest(world->chain, world->author, reveal, NULL, 0, NULL, &attestations));
    MUST(blyan_evaluate_options_init(&options, sizeof options));
    options.on_progress = count_passes;
    options.user = &passes;
    MUST(blyan_attest(world->chain, world->owner, reveal, NULL, 0, &options, &attestations));
    EXPECT_TRUE(blyan_hashes_len(attestations) == 1);
    MUST(blyan_hashes_get(attestations, 0, &first));
    blyan_hashes_free(attestations);
    /* Base and candidate beside each other, on the split and on the dataset. */
    EXPECT_TRUE(passes >= 2);
    MUST(blyan_attest(world->chain, world->owner, reveal, candidate, 1, NULL, &attestations));
    MUST(blyan_hashes_get(attestations, 0, &again));
    EXPECT_TRUE(blyan_hashes_len(attestations) == 1 && equal(&first, &again));
    blyan_hashes_free(attestations);
    judged(world->chain, &world->policy, "too_few_attestations");
    MUST(blyan_attest(world->chain, world->validator, reveal, NULL, 0, NULL, &attestations));
    blyan_hashes_free(attestations);

    MUST(blyan_audit(world->chain, &world->policy, world->validator, NULL, &report));
    MUST(blyan_audit_report_describe(report, &info, sizeof info));
    EXPECT_TRUE(info.checked == 2 && info.lies_len == 0 && info.other_numerics_len == 0
                && info.collected_len == 0);
    MUST(blyan_audit_report_json(report, &json));
    EXPECT_TRUE(holds(json, "{\"checked\":2,\"lies\":[],\"other_numerics\":[],\"collected\":[]}"));
    blyan_audit_report_free(report);
}

/* What was measured is what anybody measures; it is accepted, and the model is what was trained. */
static blyan_hash adopt(const struct world *world, const blyan_hash *round, const blyan_hash *candidate)
{
    const blyan_chain *chain = world->chain;
    blyan_public_key author = public_of(world->author);
    blyan_public_key owner = public_of(world->owner);
    blyan_candidate_state state;
    blyan_judgement *judgement;
    blyan_round_state shown;
    blyan_snapshot *base;
    blyan_snapshot *changed;
    blyan_snapshot_info info;
    blyan_chosen chosen;
    blyan_slot adopted, trained;
    blyan_text *json;
    blyan_hash model, again, release, found;
    char part[256];
    double before, after, by_logits;

    MUST(blyan_snapshot_open(chain, &world->model, &base));
    MUST(blyan_snapshot_of_candidates(chain, candidate, 1, &changed));
    MUST(blyan_snapshot_describe(changed, &info, sizeof info));
    before = evaluated(chain, base, world->split);
    after = evaluated(chain, changed, world->split);
    by_logits = loss_by_logits(chain, &world->model, blyan_tokens_data(world->split),
                               blyan_tokens_len(world->split));
    EXPECT_TRUE(fabs(before - by_logits) < 1e-5 * before);
    EXPECT_TRUE(after < 0.999 * before);
    evaluate_together(chain, base, changed, world->split);
    blyan_snapshot_free(changed);
    blyan_snapshot_free(base);

    state = judged(chain, &world->policy, "");
    EXPECT_TRUE(equal(&state.candidate, candidate) && equal(&state.base, &world->model));
    EXPECT_TRUE(memcmp(&state.author, &author, sizeof author) == 0 && state.validators_len == 2);
    EXPECT_TRUE(state.base_loss == before && state.loss == after);

    MUST(blyan_judge(chain, &world->policy, &judgement));
    MUST(blyan_judgement_round(judgement, 0, &shown, sizeof shown));
    EXPECT_TRUE(equal(&shown.round, round) && equal(&shown.base, &world->model) && !shown.has_previous);
    EXPECT_TRUE(memcmp(&shown.owner, &owner, sizeof owner) == 0 && shown.refused.len == 0);
    EXPECT_TRUE(shown.closings_len == 1 && shown.reveals_len == 1 && shown.accepted_len == 1);
    MUST(blyan_judgement_chosen(judgement, NULL, &chosen, sizeof chosen));
    EXPECT_TRUE(equal(&chosen.root, &info.root) && chosen.steps_len == 1);
    EXPECT_TRUE(fabs(chosen.score - after / before) < 1e-12);
    EXPECT_TRUE((double)chosen.score_units / 4611686018427387904.0 == chosen.score);
    MUST(blyan_judgement_json(judgement, &json));
    snprintf(part, sizeof part, "\"chosen\":{\"model\":\"%s\"", hex_of(&chosen.model));
    EXPECT_TRUE(holds(json, part));

    MUST(blyan_judgement_publish(judgement, chain, &model));
    EXPECT_TRUE(equal(&model, &chosen.model));
    adopted = slot_of(chain, &model, DAMAGED_EXPERT);
    trained = slot_of(chain, &world->trained, DAMAGED_EXPERT);
    EXPECT_TRUE(equal(&adopted.payload, &trained.payload) && equal(&adopted.block, &world->better.block));
    MUST(blyan_judgement_release(judgement, chain, "kjv", BLYAN_NUL, "1.1.0", BLYAN_NUL, &again, &release));
    MUST(blyan_chain_find_model(chain, "kjv@1.1.0", BLYAN_NUL, &found));
    EXPECT_TRUE(equal(&found, &model) && equal(&again, &model));
    MUST(blyan_judgement_chosen(judgement, round, &chosen, sizeof chosen));
    EXPECT_TRUE(equal(&chosen.model, &world->model) && chosen.score == 1 && chosen.steps_len == 0);
    blyan_judgement_free(judgement);
    return model;
}

/* The model is used; who made it better has all of the pool. */
static void reward(const struct world *world, const blyan_hash *model, const blyan_hash *reveal)
{
    static const blyan_prompt PROMPT = {SPLIT, BLYAN_NUL, NULL, 0};
    const blyan_chain *chain = world->chain;
    const blyan_key *validators[2];
    blyan_public_key author = public_of(world->author);
    blyan_model_options options;
    blyan_model *opened;
    blyan_generate_options generating;
    blyan_generation *generation;
    blyan_receipt *receipt;
    blyan_hashes *wrong;
    blyan_ledger *ledger;
    blyan_shares *shares;
    blyan_share share;
    blyan_text *json;
    blyan_text *uses;
    blyan_hash block, record, run, none;
    char part[256];
    int i;

    MUST(blyan_model_options_init(&options, sizeof options));
    options.model = model;
    MUST(blyan_model_open(chain, &options, &opened));
    MUST(blyan_generate_options_init(&generating, sizeof generating));
    generating.max_tokens = 4;
    MUST(blyan_model_generate(opened, &PROMPT, &generating, &generation));
    MUST(blyan_generation_receipt(generation, &receipt));
    MUST(blyan_receipt_append(receipt, chain, &block));
    MUST(blyan_receipt_run(receipt, &run));
    MUST(blyan_receipt_uses_json(receipt, chain, NULL, &uses));
    blyan_receipt_free(receipt);
    blyan_generation_free(generation);
    blyan_model_free(opened);

    EXPECT(INVALID_ARGUMENT, blyan_record_usage(chain, &world->policy, reveal, NULL, 0, world->owner, NULL,
                                                &none));
    EXPECT(EVIDENCE, blyan_record_usage(chain, &world->policy, reveal, &block, 1, world->author, NULL,
                                        &none));
    validators[0] = world->owner;
    validators[1] = world->validator;
    for (i = 0; i < 2; i++) {
        MUST(blyan_recorded_uses_json(chain, &world->policy, &json));
        EXPECT_TRUE(strcmp(blyan_text_get(json).data, "[]") == 0);
        blyan_text_free(json);
        MUST(blyan_record_usage(chain, &world->policy, reveal, &block, 1, validators[i], NULL, &record));
    }
    MUST(blyan_audit_usage(chain, &record, NULL, &wrong));
    EXPECT_TRUE(blyan_hashes_len(wrong) == 0);
    blyan_hashes_free(wrong);
    MUST(blyan_recorded_uses_json(chain, &world->policy, &json));
    snprintf(part, sizeof part, "[{\"receipt\":\"%s\",\"reveal\":\"%s\",\"model\":\"%s\"",
             hex_of(&block), hex_of(reveal), hex_of(model));
    EXPECT_TRUE(strstr(blyan_text_get(json).data, part) != NULL);
    snprintf(part, sizeof part, "\"run\":\"%s\",\"tokens\":{\"", hex_of(&run));
    EXPECT_TRUE(strstr(blyan_text_get(json).data, part) != NULL);
    EXPECT_TRUE(holds(json, blyan_text_get(uses).data));
    blyan_text_free(uses);

    MUST(blyan_ledger_open(chain, &world->policy, &ledger));
    EXPECT_TRUE(blyan_ledger_periods(ledger) == 1);
    MUST(blyan_ledger_rewards(ledger, 0, 1000, &shares));
    EXPECT_TRUE(blyan_shares_len(shares) == 1);
    MUST(blyan_shares_get(shares, 0, &share, sizeof share));
    EXPECT_TRUE(share.units == 1000 && memcmp(&share.author, &author, sizeof author) == 0);
    EXPECT_TRUE(share.weight_low > 0 || share.weight_high > 0);
    blyan_shares_free(shares);
    MUST(blyan_ledger_rewards(ledger, 1, 1000, &shares));
    EXPECT_TRUE(blyan_shares_len(shares) == 0);
    blyan_shares_free(shares);
    MUST(blyan_ledger_credits_json(ledger, 0, &json));
    EXPECT_TRUE(strstr(blyan_text_get(json).data, "\"adopted\":0") != NULL);
    blyan_text_free(json);
    blyan_ledger_free(ledger);
}

void go_through_a_round(const char *folder)
{
    struct world world;
    char digits[BLYAN_HASH_HEX_SIZE];
    blyan_public_key owner, parsed;
    blyan_hash round, candidate, reveal, model, next;
    uint32_t split[33];
    uint32_t i;

    make_world(&world, folder);
    owner = public_of(world.owner);
    MUST(blyan_public_key_to_hex(&owner, digits, sizeof digits));
    EXPECT_TRUE(strcmp(digits, PUBLIC_1) == 0);
    MUST(blyan_public_key_from_hex(PUBLIC_1, BLYAN_NUL, &parsed));
    EXPECT_TRUE(memcmp(&parsed, &owner, sizeof owner) == 0);
    reveal = show(&world, &round, &candidate);
    check_commitments(world.chain, &round, &reveal, &candidate, &world.better);
    attest(&world, &reveal, &candidate);
    model = adopt(&world, &round, &candidate);
    reward(&world, &model, &reveal);

    /* The next round begins with the adopted model, and commits to its split as anybody would. */
    for (i = 0; i < 33; i++)
        split[i] = 3 + i;
    MUST(blyan_round_open(world.chain, world.owner, &world.policy, split, 33, &next));
    EXPECT_TRUE(says(world.chain, &next, "\"split\":\"" SPLIT_COMMITMENT "\",\"tokens\":33"));
    EXPECT_TRUE(says(world.chain, &next, hex_of(&model)));
    EXPECT_TRUE(says(world.chain, &next, hex_of(&reveal)));
    blyan_tokens_free(world.split);
    blyan_key_free(world.author);
    blyan_key_free(world.validator);
    blyan_key_free(world.owner);
    blyan_chain_free(world.chain);
}
