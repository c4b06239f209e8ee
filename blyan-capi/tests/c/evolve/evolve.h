/* What the files of this program share: checks, keys, blocks with other weights. */
#ifndef EVOLVE_H
#define EVOLVE_H

#include <blyan.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int failures;

void expect_true(int holds, const char *file, int line, const char *what);
void expect(int32_t expected, int32_t status, const char *file, int line, const char *call);
void must(blyan_status status, const char *file, int line);

#define EXPECT(status, call) \
    expect(BLYAN_STATUS_##status, (int32_t)(call), __FILE__, __LINE__, #call)
#define EXPECT_TRUE(condition) expect_true((condition), __FILE__, __LINE__, #condition)
#define MUST(call) must((call), __FILE__, __LINE__)

/* The digits of a hash; the last four stay. */
const char *hex_of(const blyan_hash *hash);
int equal(const blyan_hash *a, const blyan_hash *b);
/* Whether the last error is about this block. */
int names(const blyan_hash *block);
/* Whether a text that a call gave holds another one; frees it. */
int holds(blyan_text *text, const char *part);
int says(const blyan_chain *chain, const blyan_hash *block, const char *part);

/* The key whose secret is 32 times that byte. */
blyan_key *key_of(uint8_t seed);
blyan_public_key public_of(const blyan_key *key);

/* The block and the payload in a slot of a model. */
blyan_slot slot_of(const blyan_chain *chain, const blyan_hash *model, const char *slot);
/* A block that takes the place of an expert of a model, the weights of its down_proj negated. */
blyan_hash negated(const blyan_chain *chain, const blyan_hash *model, const char *slot);

void grow_a_model(const char *folder, const char *empty);
void merge_deltas(const char *folder, const char *empty);
/* Proposes a text under a policy, has it audited and voted on, and gives its dataset. */
blyan_hash accept_a_dataset(const blyan_chain *chain, const blyan_hash *policy, const blyan_hash *model,
                            const char *text);
void go_through_a_round(const char *folder);
void train_an_expert(const char *folder);
void say_anything(const char *folder);
/* Whether a round, and the claim that a candidate was made of, committed to what was shown later. */
void check_commitments(const blyan_chain *chain, const blyan_hash *round, const blyan_hash *reveal,
                       const blyan_hash *candidate, const blyan_slot_block *shown);

#endif
