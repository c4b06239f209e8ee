/* What the files of this program share. */
#ifndef MISUSE_H
#define MISUSE_H

#include <blyan.h>

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int failures;
extern const blyan_prompt PROMPT;

void expect_true(int holds, const char *file, int line, const char *what);
void expect(int32_t expected, int32_t status, const char *file, int line, const char *call);

#define EXPECT(status, call) \
    expect(BLYAN_STATUS_##status, (int32_t)(call), __FILE__, __LINE__, #call)
#define EXPECT_TRUE(condition) expect_true((condition), __FILE__, __LINE__, #condition)

void close_the_chain_first(const char *folder);
void other_versions(const blyan_model *model);
void odd_values(const blyan_chain *chain, const blyan_model *model);
void stop_in_the_middle(const char *folder, const char *empty);
void stop_generating(const blyan_model *model);
void write_twice(void);
void lose_a_payload(const char *folder, const char *empty);
void exchange_badly(const char *folder, const char *empty);
void hear_warnings(const char *folder, const char *empty);
void say_what_is_not_so(const char *folder, const char *empty);
void train_badly(const char *folder);

#endif
