/* What a key says in whatever kind, and what is committed to before it is shown. */
#include "evolve.h"

/* By Python's `cryptography` and another implementation of BLAKE3, from the secret of 32 times 1. */
#define PUBLIC_1 "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
#define REMARK "{\"text\":\"so it is\",\"count\":1}"
#define SIGNED_REMARK                                                                \
    "{\"statement_version\":1,\"body\":" REMARK ",\"key\":\"" PUBLIC_1              \
    "\",\"signature\":\"2d2f419a4e7c291e844176617783620fb6646817d552139be4c7d77ff7412" \
    "cb81c6a47e1c017926c282ef5850086a57dd6f210146f1e2b6605b52ee01f4db503\"}"

/* derive_key("blyan candidate 1", 32 times 3, 14 as u32, "layer0.expert1", 32 times 4), and
 * derive_key("blyan claim 1", 32 times 7, PUBLIC_1, that). */
#define ROOT "a7fef1e6fc629e5e3ee80f66eb9e50607a435534d196d5adb4b556d0db2e12c4"
#define CLAIM_COMMITMENT "17b66cfd032ae6d66266fd55f6fc0e887645393881404769b19bb6f65abcfc88"

/* Of the tokens 3 to 35: their hash, their salt of round.c, and the commitment there. */
#define SPLIT_TOKENS "89b2c8d28a8e528422c2aab829252eb2a761fa0e3de24e39484afc46cfad3220"
#define SPLIT_SALT "2b98c7abcc8053aba6598161755731bf1a4dff8fdc83ea4cb75023e50386ea1d"
#define SPLIT_COMMITMENT "2b14b2e01e53f0d17e3c3608f946b5fbeb9ed0104ffe3e7272a52132fcb8e227"

static uint16_t kind_of(const char *name)
{
    uint16_t kind;

    MUST(blyan_kind_from_name(name, BLYAN_NUL, &kind));
    return kind;
}

static blyan_hash filled(uint8_t byte)
{
    blyan_hash hash;

    memset(&hash, byte, sizeof hash);
    return hash;
}

static blyan_hash parsed(const char *hex)
{
    blyan_hash hash;

    MUST(blyan_hash_from_hex(hex, 64, &hash));
    return hash;
}

/* The hash behind a name in what a block says, and who says it. */
static blyan_hash named(const blyan_chain *chain, const blyan_hash *block, const char *name,
                        blyan_public_key *key)
{
    blyan_statement *statement;
    blyan_statement_info info;
    blyan_text *json;
    const char *found;
    blyan_hash hash;

    MUST(blyan_statement_open(chain, block, &statement));
    MUST(blyan_statement_describe(statement, &info, sizeof info));
    *key = info.key;
    MUST(blyan_statement_to_json(statement, &json));
    found = strstr(blyan_text_get(json).data, name);
    EXPECT_TRUE(found != NULL);
    hash = parsed(found + strlen(name));
    blyan_text_free(json);
    blyan_statement_free(statement);
    return hash;
}

static void commit_as_anybody(void)
{
    blyan_slot_block block;
    blyan_public_key author;
    blyan_hash base = filled(3), salt = filled(7), root, tokens, commitment;

    block.slot.data = "layer0.expert1";
    block.slot.len = BLYAN_NUL;
    block.block = filled(4);
    MUST(blyan_candidate_root(&base, &block, 1, &root));
    EXPECT_TRUE(strcmp(hex_of(&root), ROOT) == 0);
    MUST(blyan_public_key_from_hex(PUBLIC_1, BLYAN_NUL, &author));
    MUST(blyan_claim_commitment(&salt, &author, &root, &commitment));
    EXPECT_TRUE(strcmp(hex_of(&commitment), CLAIM_COMMITMENT) == 0);
    salt = parsed(SPLIT_SALT);
    tokens = parsed(SPLIT_TOKENS);
    MUST(blyan_split_commitment(&salt, &tokens, &commitment));
    EXPECT_TRUE(strcmp(hex_of(&commitment), SPLIT_COMMITMENT) == 0);
}

void check_commitments(const blyan_chain *chain, const blyan_hash *round, const blyan_hash *reveal,
                       const blyan_hash *candidate, const blyan_slot_block *shown)
{
    blyan_public_key author, owner;
    blyan_block *block;
    blyan_block_info info;
    blyan_hash base, claim, salt, tokens, root, commitment, expected;

    base = named(chain, candidate, "\"base\":\"", &author);
    claim = named(chain, candidate, "\"claim\":\"", &author);
    salt = named(chain, candidate, "\"salt\":\"", &author);
    MUST(blyan_candidate_root(&base, shown, 1, &root));
    MUST(blyan_claim_commitment(&salt, &author, &root, &commitment));
    expected = named(chain, &claim, "\"candidate\":\"", &owner);
    EXPECT_TRUE(equal(&commitment, &expected) && memcmp(&author, &owner, sizeof owner) == 0);

    tokens = named(chain, reveal, "\"tokens\":\"", &owner);
    salt = named(chain, reveal, "\"salt\":\"", &owner);
    MUST(blyan_chain_get(chain, &tokens, &block));
    MUST(blyan_block_describe(block, &info, sizeof info));
    MUST(blyan_split_commitment(&salt, &info.payload, &commitment));
    blyan_block_free(block);
    expected = named(chain, round, "\"split\":\"", &owner);
    EXPECT_TRUE(equal(&commitment, &expected));
}

/* An application's own kind, signed as any other implementation does it. */
static void remark(const blyan_chain *chain, const blyan_key *key)
{
    blyan_public_key public_key = public_of(key);
    blyan_statement *statement;
    blyan_statement *other;
    blyan_statement_info info;
    blyan_draft draft;
    blyan_text *json;
    blyan_hash block, none;

    MUST(blyan_statement_sign(key, 5000, REMARK, BLYAN_NUL, &statement));
    MUST(blyan_statement_to_json(statement, &json));
    EXPECT_TRUE(strcmp(blyan_text_get(json).data, SIGNED_REMARK) == 0);
    EXPECT(EVIDENCE, blyan_statement_append(statement, chain, &none));
    blyan_statement_free(statement);
    MUST(blyan_draft_init(&draft, sizeof draft));
    draft.lane = BLYAN_LANE_DATASET;
    draft.kind = 5000;
    draft.name.data = "remark";
    draft.name.len = BLYAN_NUL;
    draft.payload = blyan_text_get(json).data;
    draft.payload_len = blyan_text_get(json).len;
    MUST(blyan_chain_append(chain, &draft, &block));
    blyan_text_free(json);

    MUST(blyan_statement_open(chain, &block, &statement));
    MUST(blyan_statement_describe(statement, &info, sizeof info));
    EXPECT_TRUE(info.kind == 5000 && memcmp(&info.key, &public_key, sizeof public_key) == 0);
    EXPECT_TRUE(info.signature[0] == 0x2d && info.signature[63] == 0x03);
    blyan_statement_free(statement);
    MUST(blyan_statement_from_json(5000, SIGNED_REMARK, BLYAN_NUL, &statement));
    blyan_statement_free(statement);
    /* A signature is of one kind and one body. */
    EXPECT(EVIDENCE, blyan_statement_from_json(5001, SIGNED_REMARK, BLYAN_NUL, &other));
    EXPECT(EVIDENCE, blyan_statement_from_json(5000, SIGNED_REMARK, sizeof SIGNED_REMARK - 2, &other));
    EXPECT_TRUE(other == NULL);
}

/* An audit and a vote that are said by hand are what the calls for them say. */
void say_anything(const char *folder)
{
    static const uint32_t ids[3] = {1, 2, 3};
    blyan_chain *chain;
    blyan_key *key = key_of(1);
    blyan_public_key public_key = public_of(key);
    blyan_policy policy;
    blyan_dataset_draft draft;
    blyan_statement *statement;
    blyan_text *json;
    blyan_hash model, rules, dataset, by_hand, audit, vote;
    char body[512];

    commit_as_anybody();
    MUST(blyan_chain_in_memory(&chain));
    MUST(blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    MUST(blyan_chain_find_model(chain, "latest", BLYAN_NUL, &model));
    MUST(blyan_policy_init(&policy, sizeof policy));
    policy.model = &model;
    policy.validators = &public_key;
    policy.validators_len = 1;
    policy.voters = &public_key;
    policy.voters_len = 1;
    MUST(blyan_policy_append(chain, &policy, &rules));
    MUST(blyan_dataset_draft_init(&draft, sizeof draft));
    draft.name.data = "ids";
    draft.name.len = BLYAN_NUL;
    draft.license.data = "CC0-1.0";
    draft.license.len = BLYAN_NUL;
    draft.source.data = "counted by hand";
    draft.source.len = BLYAN_NUL;
    draft.tokens = ids;
    draft.tokens_len = 3;
    draft.vocab_size = 4;
    MUST(blyan_dataset_propose(chain, &draft, &dataset));

    MUST(blyan_dataset_recompute_json(chain, &rules, &dataset, &json));
    EXPECT_TRUE(strstr(blyan_text_get(json).data, "\"num_tokens\":3,\"out_of_vocabulary\":0,"
                                                  "\"distinct_tokens\":3,\"windows\":0,") != NULL);
    MUST(blyan_statement_sign(key, kind_of("audit"), blyan_text_get(json).data, blyan_text_get(json).len,
                              &statement));
    blyan_text_free(json);
    MUST(blyan_statement_append(statement, chain, &by_hand));
    blyan_statement_free(statement);
    MUST(blyan_dataset_audit(chain, &rules, &dataset, key, &audit));
    EXPECT_TRUE(equal(&by_hand, &audit));

    /* Its fields in another order than the block has them. */
    snprintf(body, sizeof body,
             "{\"approve\": true, \"audit\": \"%s\", \"dataset\": \"%s\", \"policy\": \"%s\"}", hex_of(&audit),
             hex_of(&dataset), hex_of(&rules));
    MUST(blyan_statement_sign(key, kind_of("vote"), body, BLYAN_NUL, &statement));
    MUST(blyan_statement_append(statement, chain, &by_hand));
    blyan_statement_free(statement);
    MUST(blyan_dataset_vote(chain, &rules, &dataset, key, true, &vote));
    EXPECT_TRUE(equal(&by_hand, &vote) && says(chain, &vote, "\"approve\":true},\"key\":\"" PUBLIC_1));
    remark(chain, key);
    blyan_key_free(key);
    blyan_chain_free(chain);
}
