/* Says what is not so, or says it twice, too early or with another's key; stops evaluations; gives damaged
 * and foreign evidence, deltas that do not fit and routers that do not grow. */
#include "misuse.h"

#include <unistd.h>

static const uint32_t SPLIT[6] = {3, 4, 5, 6, 7, 8};

static blyan_key *key_of(uint8_t seed)
{
    uint8_t secret[BLYAN_SECRET_KEY_SIZE];
    blyan_key *key;

    memset(secret, seed, sizeof secret);
    EXPECT(OK, blyan_key_from_secret(secret, sizeof secret, &key));
    return key;
}

static uint64_t len_of(const blyan_chain *chain)
{
    uint64_t len = 0;

    EXPECT(OK, blyan_chain_len(chain, &len));
    return len;
}

static int names(const blyan_hash *block)
{
    return blyan_last_error()->block != NULL &&
           memcmp(blyan_last_error()->block, block, sizeof *block) == 0;
}

/* The block that fills a slot of the chain's only model. */
static blyan_hash block_of(const blyan_chain *chain, const char *slot)
{
    blyan_hash block = {{0}};

    EXPECT(OK, blyan_chain_find_block(chain, slot, BLYAN_NUL, NULL, 0, &block));
    return block;
}

static int stop_evaluating(void *user, const blyan_evaluate_progress *progress)
{
    int *count = user;

    EXPECT_TRUE(progress->tokens <= progress->total_tokens && progress->loss > 0);
    return ++*count == 2;
}

static void stop_the_evaluation(const blyan_chain *chain)
{
    blyan_chain *other;
    blyan_cancel *cancel;
    blyan_snapshot *snapshot;
    blyan_evaluate_options options;
    blyan_evaluation found;
    uint32_t far[3] = {3, UINT32_MAX, 4};
    int count = 0;

    EXPECT(OK, blyan_cancel_new(&cancel));
    EXPECT(OK, blyan_snapshot_open(chain, NULL, &snapshot));
    EXPECT(OK, blyan_evaluate_options_init(&options, sizeof options));
    options.window = 1;
    options.pass_tokens = 1;
    options.on_progress = stop_evaluating;
    options.user = &count;
    options.cancel = cancel;
    memset(&found, 0x55, sizeof found);
    EXPECT(STOPPED, blyan_snapshot_evaluate(snapshot, chain, SPLIT, 6, &options, &found, sizeof found));
    EXPECT_TRUE(count == 2 && blyan_cancel_is_set(cancel) && found.tokens == UINT64_C(0x5555555555555555));
    options.on_progress = NULL;
    EXPECT(CANCELLED, blyan_snapshot_evaluate(snapshot, chain, SPLIT, 6, &options, &found, sizeof found));
    blyan_cancel_set(cancel, false);
    EXPECT(OK, blyan_snapshot_evaluate(snapshot, chain, SPLIT, 6, &options, &found, sizeof found));
    EXPECT_TRUE(found.tokens == 5 && found.windows == 5);
    /* That it is done does not make a stop no stop. */
    count = 1;
    options.pass_tokens = 64;
    options.on_progress = stop_evaluating;
    EXPECT(STOPPED, blyan_snapshot_evaluate(snapshot, chain, SPLIT, 6, &options, &found, sizeof found));
    options.on_progress = NULL;
    options.cancel = NULL;

    EXPECT(INVALID_ARGUMENT, blyan_snapshot_evaluate(snapshot, chain, far, 3, &options, &found,
                                                     sizeof found));
    options.window = UINT64_C(1) << 40;
    EXPECT(OK, blyan_snapshot_evaluate(snapshot, chain, SPLIT, 6, &options, &found, sizeof found));
    EXPECT_TRUE(found.windows == 1);
    options.isa.data = "abacus";
    EXPECT(INVALID_ARGUMENT, blyan_snapshot_evaluate(snapshot, chain, SPLIT, 6, &options, &found,
                                                     sizeof found));
    /* An older caller has no more than the window: the rest is garbage. */
    memset(&options, 0xff, sizeof options);
    EXPECT(OK, blyan_evaluate_options_init(&options, offsetof(blyan_evaluate_options, pass_tokens)));
    options.window = 5;
    EXPECT(OK, blyan_snapshot_evaluate(snapshot, chain, SPLIT, 6, &options, &found, sizeof found));
    EXPECT_TRUE(found.tokens == 5 && found.windows == 1);

    /* A chain that has none of it. */
    EXPECT(OK, blyan_chain_in_memory(&other));
    EXPECT_TRUE(blyan_snapshot_evaluate(snapshot, other, SPLIT, 6, NULL, &found, sizeof found) !=
                BLYAN_STATUS_OK);
    blyan_chain_free(other);
    blyan_snapshot_free(snapshot);
    blyan_cancel_free(cancel);
}

/* A block of a chain with one byte of its payload changed, under the same name. */
static void forge(const blyan_chain *chain, const blyan_hash *block, size_t place)
{
    blyan_block *found;
    blyan_block_info info;
    blyan_payload *payload;
    blyan_draft draft;
    blyan_hash forged;
    uint64_t before = len_of(chain);
    char *bytes;

    EXPECT(OK, blyan_chain_get(chain, block, &found));
    EXPECT(OK, blyan_block_describe(found, &info, sizeof info));
    EXPECT(OK, blyan_chain_payload(chain, block, &payload));
    bytes = malloc(blyan_payload_len(payload));
    memcpy(bytes, blyan_payload_data(payload), blyan_payload_len(payload));
    bytes[blyan_payload_len(payload) - place] ^= 1;
    EXPECT(OK, blyan_draft_init(&draft, sizeof draft));
    draft.lane = info.lane;
    draft.kind = info.kind;
    draft.name = info.name;
    draft.parents = info.parents;
    draft.parents_len = info.parents_len;
    draft.payload = bytes;
    draft.payload_len = blyan_payload_len(payload);
    EXPECT(REFUSED, blyan_chain_append(chain, &draft, &forged));
    EXPECT_TRUE(len_of(chain) == before);
    free(bytes);
    blyan_payload_free(payload);
    blyan_block_free(found);
}

static void say_it_twice(const blyan_chain *chain)
{
    blyan_key *owner = key_of(1);
    blyan_key *author = key_of(2);
    blyan_public_key validator;
    blyan_policy policy;
    blyan_dataset_draft draft;
    blyan_slot_block blocks;
    blyan_writer *writer;
    blyan_contribution contribution;
    blyan_judgement *judgement;
    blyan_judgement_info info;
    blyan_hash model, rules, dataset, audit, vote, round, claim, closing, none;
    uint64_t before;

    EXPECT(OK, blyan_chain_find_model(chain, "latest", BLYAN_NUL, &model));
    EXPECT(OK, blyan_key_public(owner, &validator));
    EXPECT(OK, blyan_policy_init(&policy, sizeof policy));
    policy.model = &model;
    policy.validators = policy.voters = &validator;
    policy.validators_len = policy.voters_len = 1;
    policy.tiers = 1u << BLYAN_TIER_GOLD;
    EXPECT(OK, blyan_policy_append(chain, &policy, &rules));
    policy.window = 0;
    EXPECT(REFUSED, blyan_policy_append(chain, &policy, &none));

    EXPECT(OK, blyan_dataset_draft_init(&draft, sizeof draft));
    draft.name.data = "numbers";
    draft.name.len = 7;
    draft.license.data = "CC0-1.0";
    draft.license.len = BLYAN_NUL;
    draft.source.data = "counted";
    draft.source.len = BLYAN_NUL;
    draft.tokens = SPLIT;
    draft.tokens_len = 5;
    draft.vocab_size = 7;
    before = len_of(chain);
    EXPECT(REFUSED, blyan_dataset_propose(chain, &draft, &none));
    EXPECT_TRUE(len_of(chain) == before);
    draft.vocab_size = 9;
    EXPECT(OK, blyan_dataset_propose(chain, &draft, &none));
    EXPECT(OK, blyan_dataset_audit(chain, &rules, &none, owner, &audit));
    /* The policy puts no such tier to the vote. */
    EXPECT(REFUSED, blyan_dataset_vote(chain, &rules, &none, owner, true, &vote));
    draft.tier = BLYAN_TIER_GOLD;
    EXPECT(OK, blyan_dataset_propose(chain, &draft, &dataset));
    EXPECT(STEP, blyan_dataset_vote(chain, &rules, &dataset, owner, true, &vote));
    EXPECT_TRUE(names(&dataset));
    EXPECT(EVIDENCE, blyan_dataset_audit(chain, &rules, &dataset, author, &audit));
    EXPECT_TRUE(names(&rules));
    EXPECT(OK, blyan_dataset_audit(chain, &rules, &dataset, owner, &audit));
    EXPECT(OK, blyan_dataset_vote(chain, &rules, &dataset, owner, true, &vote));
    EXPECT(OK, blyan_dataset_vote(chain, &rules, &dataset, owner, true, &none));
    EXPECT_TRUE(memcmp(&vote, &none, sizeof none) == 0);
    EXPECT(STEP, blyan_dataset_vote(chain, &rules, &dataset, owner, false, &none));
    EXPECT_TRUE(names(&vote));
    forge(chain, &audit, 10);
    forge(chain, &vote, 140);

    EXPECT(STEP, blyan_round_open(chain, owner, &rules, SPLIT, 5, &round));
    EXPECT(REFUSED, blyan_round_open(chain, author, &rules, SPLIT, 6, &round));
    EXPECT(OK, blyan_round_open(chain, owner, &rules, SPLIT, 6, &round));
    EXPECT(STEP, blyan_round_close(chain, owner, &round, &closing));
    EXPECT_TRUE(names(&round));
    blocks.slot.data = "layer0.expert1";
    blocks.slot.len = BLYAN_NUL;
    blocks.block = block_of(chain, "layer0.expert1");
    /* The base has that. */
    EXPECT(STEP, blyan_contribute(chain, author, &round, &blocks, 1, false, &contribution,
                                  sizeof contribution));
    EXPECT_TRUE(names(&blocks.block));
    EXPECT(OK, blyan_round_claim(chain, author, &round, &blocks, 1, &claim));
    EXPECT(STEP, blyan_round_propose(chain, author, &claim, &blocks, 1, &none));
    EXPECT_TRUE(names(&claim));
    EXPECT(STEP, blyan_round_reveal(chain, owner, &round, SPLIT, 6, &none));
    EXPECT(REFUSED, blyan_round_close(chain, author, &round, &closing));
    forge(chain, &claim, 10);

    /* This thread has a transaction: it would wait for itself. */
    EXPECT(OK, blyan_chain_writer(chain, &writer));
    EXPECT(BUSY, blyan_round_close(chain, owner, &round, &closing));
    EXPECT(BUSY, blyan_contribute(chain, author, &round, &blocks, 1, true, &contribution,
                                  sizeof contribution));
    blyan_writer_free(writer);
    EXPECT(OK, blyan_round_close(chain, owner, &round, &closing));
    EXPECT(STEP, blyan_round_close(chain, owner, &round, &none));
    EXPECT_TRUE(names(&closing));
    EXPECT(REFUSED, blyan_round_propose(chain, author, &claim, &blocks, 1, &none));
    EXPECT(STEP, blyan_round_reveal(chain, owner, &round, SPLIT, 6, &none));
    EXPECT_TRUE(names(&round));

    EXPECT(OK, blyan_judge(chain, &rules, &judgement));
    EXPECT(REFUSED, blyan_judgement_release(judgement, chain, "No Name", BLYAN_NUL, "1.0.0", BLYAN_NUL, &none,
                                            &model));
    EXPECT(OK, blyan_judgement_describe(judgement, &info, sizeof info));
    EXPECT_TRUE(info.rounds_len == 1 && info.candidates_len == 0 && info.faults_len == 0);
    blyan_judgement_free(judgement);
    blyan_key_free(author);
    blyan_key_free(owner);
}

static void change_badly(const blyan_chain *chain)
{
    blyan_hash router = block_of(chain, "layer0.router");
    blyan_hash tokenizer = block_of(chain, "tokenizer");
    blyan_hash block;
    blyan_payload *old;
    blyan_payload *payload;
    blyan_snapshot *snapshot;
    blyan_snapshot *grown;
    blyan_bytes expert;
    blyan_layer_growth layers[2];
    uint64_t before = len_of(chain);
    bool made;

    EXPECT(WRONG_BLOCK, blyan_delta_append(chain, &tokenizer, "{}", 2, &block));
    EXPECT_TRUE(names(&tokenizer));
    EXPECT(REFUSED, blyan_delta_append(chain, &router, "no tensors", 10, &block));
    EXPECT(WRONG_BLOCK, blyan_delta_merge(chain, &router, &block));
    EXPECT(WRONG_BLOCK, blyan_delta_merged_hash(chain, &router, &block));
    EXPECT(OK, blyan_delta_merged_payload(chain, &router, &payload));
    blyan_payload_free(payload);
    EXPECT(OK, blyan_delta_materialise(chain, &router, &made));
    EXPECT_TRUE(!made);

    EXPECT(OK, blyan_chain_payload(chain, &router, &old));
    EXPECT(TENSOR, blyan_delta_apply(blyan_payload_data(old), blyan_payload_len(old),
                                     blyan_payload_data(old), blyan_payload_len(old), &payload));
    EXPECT_TRUE(payload == NULL);
    EXPECT(OK, blyan_snapshot_open(chain, NULL, &snapshot));
    memset(layers, 0, sizeof layers);
    expert.data = blyan_payload_data(old);
    expert.len = blyan_payload_len(old);
    layers[0].experts = &expert;
    layers[0].experts_len = 1;
    layers[0].router = expert;
    layers[1] = layers[0];
    /* A router of as many rows as before, which is no expert either. */
    EXPECT(REFUSED, blyan_snapshot_grow(snapshot, chain, layers, 1, &grown));
    EXPECT(INVALID_ARGUMENT, blyan_snapshot_grow(snapshot, chain, layers, 2, &grown));
    layers[0].layer = 99;
    EXPECT(INVALID_ARGUMENT, blyan_snapshot_grow(snapshot, chain, layers, 1, &grown));
    EXPECT_TRUE(grown == NULL && len_of(chain) == before);
    blyan_snapshot_free(snapshot);
    blyan_payload_free(old);
}

/* The payload of a block of weights that was merged from nothing is gone for good. */
static void lose_what_was_not_merged(const char *folder, const char *empty)
{
    blyan_chain *chain;
    blyan_block *block;
    blyan_block_info info;
    blyan_payload *payload;
    blyan_hash router;
    char hex[BLYAN_HASH_HEX_SIZE];
    char dir[4096];
    char path[8192];
    bool made;

    snprintf(dir, sizeof dir, "%s/unmerged", empty);
    EXPECT(OK, blyan_chain_open(dir, BLYAN_NUL, NULL, &chain));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    router = block_of(chain, "layer0.router");
    EXPECT(OK, blyan_chain_get(chain, &router, &block));
    EXPECT(OK, blyan_block_describe(block, &info, sizeof info));
    EXPECT(OK, blyan_hash_to_hex(&info.payload, hex, sizeof hex));
    snprintf(path, sizeof path, "%s/payloads/%.2s/%s", dir, hex, hex);
    EXPECT_TRUE(unlink(path) == 0);
    EXPECT(WRONG_BLOCK, blyan_delta_merged_payload(chain, &router, &payload));
    EXPECT_TRUE(payload == NULL && names(&router));
    EXPECT(WRONG_BLOCK, blyan_delta_materialise(chain, &router, &made));
    blyan_block_free(block);
    blyan_chain_free(chain);
}

void say_what_is_not_so(const char *folder, const char *empty)
{
    blyan_chain *chain;

    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    stop_the_evaluation(chain);
    change_badly(chain);
    say_it_twice(chain);
    blyan_chain_free(chain);
    lose_what_was_not_merged(folder, empty);
}
