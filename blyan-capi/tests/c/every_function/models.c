/* Wrong calls of models, generations, sessions, receipts, usage and the log. */
#include "every_function.h"

void walk_models(void)
{
    EXPECT(NULL_ARGUMENT, blyan_chat_options_init(NULL, sizeof(blyan_chat_options)));
    EXPECT_SIZES(blyan_chat_options_init(&scratch_chat_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_prompt(NULL, "[]", BLYAN_NUL, NULL, false, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_prompt(a_model, NULL, BLYAN_NUL, NULL, false, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_prompt(a_model, "[]", BLYAN_NUL, NULL, false, NULL));
    EXPECT(INVALID_UTF8, blyan_model_chat_prompt(a_model, BAD_UTF8, 1, NULL, false, &new_text));
    EXPECT(INVALID_SIZE, blyan_model_chat_prompt(a_model, "[]", SIZE_MAX - 1, NULL, false, &new_text));
    EXPECT(INVALID_SIZE, blyan_model_chat_prompt(a_model, "[]", BLYAN_NUL, &short_chat_options, false,
               &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_chat(NULL, "[]", BLYAN_NUL, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_chat(a_model, NULL, BLYAN_NUL, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_chat(a_model, "[]", BLYAN_NUL, NULL, NULL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_chat(a_model, BAD_UTF8, 1, NULL, NULL, &new_generation));
    EXPECT(INVALID_SIZE, blyan_model_chat(a_model, "[]", SIZE_MAX - 1, NULL, NULL, &new_generation));
    EXPECT(INVALID_SIZE, blyan_model_chat(a_model, "[]", BLYAN_NUL, &short_chat_options, NULL,
               &new_generation));
    EXPECT(INVALID_SIZE, blyan_model_chat(a_model, "[]", BLYAN_NUL, NULL, &short_generate_options,
               &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_stream(NULL, "[]", BLYAN_NUL, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_stream(a_model, NULL, BLYAN_NUL, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_stream(a_model, "[]", BLYAN_NUL, NULL, NULL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_chat_stream(a_model, BAD_UTF8, 1, NULL, NULL, &new_stream));
    EXPECT(INVALID_SIZE, blyan_model_chat_stream(a_model, "[]", SIZE_MAX - 1, NULL, NULL, &new_stream));
    EXPECT(INVALID_SIZE, blyan_model_chat_stream(a_model, "[]", BLYAN_NUL, &short_chat_options, NULL,
               &new_stream));
    EXPECT(INVALID_SIZE, blyan_model_chat_stream(a_model, "[]", BLYAN_NUL, NULL,
               &short_generate_options, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_generate(NULL, &a_prompt, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_generate(a_model, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_generate(a_model, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_generate(a_model, &a_prompt, &short_generate_options,
               &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_generate_batch(NULL, &a_prompt, 1, NULL, &new_generations));
    EXPECT(NULL_ARGUMENT, blyan_model_generate_batch(a_model, NULL, 1, NULL, &new_generations));
    EXPECT(NULL_ARGUMENT, blyan_model_generate_batch(a_model, &a_prompt, 1, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_generate_batch(a_model, &a_prompt, SIZE_MAX, NULL,
               &new_generations));
    EXPECT(INVALID_SIZE, blyan_model_generate_batch(a_model, &a_prompt, 1, &short_generate_options,
               &new_generations));
    EXPECT(NULL_ARGUMENT, blyan_model_options_init(NULL, sizeof(blyan_model_options)));
    EXPECT_SIZES(blyan_model_options_init(&scratch_model_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_open(NULL, NULL, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open(a_chain, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_open(a_chain, &short_model_options, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open_snapshot(NULL, a_snapshot, NULL, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open_snapshot(a_chain, NULL, NULL, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open_snapshot(a_chain, a_snapshot, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_open_snapshot(a_chain, a_snapshot, &short_model_options,
               &new_model));
    blyan_model_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_model_describe(NULL, &a_model_info, sizeof(blyan_model_info)));
    EXPECT(NULL_ARGUMENT, blyan_model_describe(a_model, NULL, sizeof(blyan_model_info)));
    EXPECT_SIZES(blyan_model_describe(a_model, &a_model_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_residency(NULL, &a_residency, sizeof(blyan_residency)));
    EXPECT(NULL_ARGUMENT, blyan_model_residency(a_model, NULL, sizeof(blyan_residency)));
    EXPECT_SIZES(blyan_model_residency(a_model, &a_residency, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_tokenize(NULL, "name", BLYAN_NUL, true, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_model_tokenize(a_model, NULL, BLYAN_NUL, true, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_model_tokenize(a_model, "name", BLYAN_NUL, true, NULL));
    EXPECT(INVALID_UTF8, blyan_model_tokenize(a_model, BAD_UTF8, 1, true, &new_tokens));
    EXPECT(INVALID_SIZE, blyan_model_tokenize(a_model, "name", SIZE_MAX - 1, true, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_model_count_tokens(NULL, "name", BLYAN_NUL, true, &length));
    EXPECT(NULL_ARGUMENT, blyan_model_count_tokens(a_model, NULL, BLYAN_NUL, true, &length));
    EXPECT(NULL_ARGUMENT, blyan_model_count_tokens(a_model, "name", BLYAN_NUL, true, NULL));
    EXPECT(INVALID_UTF8, blyan_model_count_tokens(a_model, BAD_UTF8, 1, true, &length));
    EXPECT(INVALID_SIZE, blyan_model_count_tokens(a_model, "name", SIZE_MAX - 1, true, &length));
    EXPECT(NULL_ARGUMENT, blyan_model_detokenize(NULL, &a_token, 1, true, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_detokenize(a_model, NULL, 1, true, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_detokenize(a_model, &a_token, 1, true, NULL));
    EXPECT(INVALID_SIZE, blyan_model_detokenize(a_model, &a_token, SIZE_MAX, true, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_token_id(NULL, "name", BLYAN_NUL, &number));
    EXPECT(NULL_ARGUMENT, blyan_model_token_id(a_model, NULL, BLYAN_NUL, &number));
    EXPECT(NULL_ARGUMENT, blyan_model_token_id(a_model, "name", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_token_id(a_model, BAD_UTF8, 1, &number));
    EXPECT(INVALID_SIZE, blyan_model_token_id(a_model, "name", SIZE_MAX - 1, &number));
    EXPECT(NULL_ARGUMENT, blyan_model_token(NULL, 1, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_token(a_model, 1, NULL));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_templates_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_templates_json(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_model_special_token(NULL, "bos_token", BLYAN_NUL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_special_token(a_model, NULL, BLYAN_NUL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_special_token(a_model, "bos_token", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_special_token(a_model, BAD_UTF8, 1, &new_text));
    EXPECT(INVALID_SIZE, blyan_model_special_token(a_model, "bos_token", SIZE_MAX - 1, &new_text));
    EXPECT(NOT_FOUND, blyan_model_special_token(a_model, "nobody", BLYAN_NUL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_logits(NULL, &a_token, 1, logits, vocab_size));
    EXPECT(NULL_ARGUMENT, blyan_model_logits(a_model, NULL, 1, logits, vocab_size));
    EXPECT(NULL_ARGUMENT, blyan_model_logits(a_model, &a_token, 1, NULL, vocab_size));
    EXPECT(INVALID_SIZE, blyan_model_logits(a_model, &a_token, SIZE_MAX, logits, vocab_size));
    EXPECT(INVALID_SIZE, blyan_model_logits(a_model, &a_token, 1, logits, SIZE_MAX));
    EXPECT(NULL_ARGUMENT, blyan_model_snapshot(NULL, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_model_snapshot(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_model_session(NULL, &new_session));
    EXPECT(NULL_ARGUMENT, blyan_model_session(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_model_stream(NULL, &a_prompt, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_stream(a_model, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_stream(a_model, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_stream(a_model, &a_prompt, &short_generate_options, &new_stream));
}

void walk_generations(void)
{
    EXPECT(NULL_ARGUMENT, blyan_generate_options_init(NULL, sizeof(blyan_generate_options)));
    EXPECT_SIZES(blyan_generate_options_init(&scratch_generate_options, bad_size));
    EXPECT_TRUE(blyan_generations_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_generations_get(NULL, 0, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_generations_get(a_generations, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_generations_get(a_generations, SIZE_MAX, &new_generation));
    blyan_generations_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_generation_describe(NULL, &a_generation_info,
               sizeof(blyan_generation_info)));
    EXPECT(NULL_ARGUMENT, blyan_generation_describe(a_generation, NULL, sizeof(blyan_generation_info)));
    EXPECT_SIZES(blyan_generation_describe(a_generation, &a_generation_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_generation_logprobs(NULL, 0, &a_logprobs, sizeof(blyan_logprobs)));
    EXPECT(NULL_ARGUMENT, blyan_generation_logprobs(a_generation, 0, NULL, sizeof(blyan_logprobs)));
    EXPECT(INVALID_ARGUMENT, blyan_generation_logprobs(a_generation, SIZE_MAX, &a_logprobs,
               sizeof(blyan_logprobs)));
    EXPECT_SIZES(blyan_generation_logprobs(a_generation, 0, &a_logprobs, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_generation_receipt(NULL, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_generation_receipt(a_generation, NULL));
    blyan_generation_free(NULL);
}

void walk_receipts(void)
{
    EXPECT(NULL_ARGUMENT, blyan_receipt_from_json(NULL, BLYAN_NUL, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_receipt_from_json("{}", BLYAN_NUL, NULL));
    EXPECT(INVALID_SIZE, blyan_receipt_from_json("{}", SIZE_MAX - 1, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_receipt_of_claim(NULL, BLYAN_NUL, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_receipt_of_claim("{}", BLYAN_NUL, NULL));
    EXPECT(INVALID_SIZE, blyan_receipt_of_claim("{}", SIZE_MAX - 1, &new_receipt));
    EXPECT(RECEIPT, blyan_receipt_of_claim("{}", BLYAN_NUL, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_receipt_to_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_receipt_to_json(a_receipt, NULL));
    EXPECT(NULL_ARGUMENT, blyan_receipt_describe(NULL, &a_receipt_info, sizeof(blyan_receipt_info)));
    EXPECT(NULL_ARGUMENT, blyan_receipt_describe(a_receipt, NULL, sizeof(blyan_receipt_info)));
    EXPECT_SIZES(blyan_receipt_describe(a_receipt, &a_receipt_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_receipt_block(NULL, 0, &a_str, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_receipt_block(a_receipt, 0, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_receipt_block(a_receipt, 0, &a_str, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_receipt_block(a_receipt, SIZE_MAX, &a_str, &a_hash));
    blyan_receipt_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_receipt_replay(NULL, a_chain, NULL, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_replay(a_receipt, NULL, NULL, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_replay(a_receipt, a_chain, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_receipt_replay(a_receipt, a_chain, &short_model_options,
               &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_run(NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_receipt_run(a_receipt, NULL));
    EXPECT(NULL_ARGUMENT, blyan_receipt_uses_json(NULL, a_chain, NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_receipt_uses_json(a_receipt, NULL, NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_receipt_uses_json(a_receipt, a_chain, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_receipt_uses_json(a_receipt, a_chain, &short_model_options, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_receipt_diff(NULL, a_receipt, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_diff(a_receipt, NULL, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_diff(a_receipt, a_receipt, NULL));
    EXPECT_TRUE(blyan_differences_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_differences_get(NULL, 0, &a_difference, sizeof(blyan_difference)));
    EXPECT(NULL_ARGUMENT, blyan_differences_get(a_differences, 0, NULL, sizeof(blyan_difference)));
    EXPECT(INVALID_ARGUMENT, blyan_differences_get(a_differences, SIZE_MAX, &a_difference,
               sizeof(blyan_difference)));
    EXPECT_SIZES(blyan_differences_get(a_differences, 0, &a_difference, bad_size));
    blyan_differences_free(NULL);
}

void walk_sessions(void)
{
    EXPECT(NULL_ARGUMENT, blyan_session_generate(NULL, &a_prompt, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_session_generate(a_session, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_session_generate(a_session, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_session_generate(a_session, &a_prompt, &short_generate_options,
               &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_session_stream(NULL, &a_prompt, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_session_stream(a_session, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_session_stream(a_session, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_session_stream(a_session, &a_prompt, &short_generate_options, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_session_tokens(NULL, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_session_tokens(a_session, NULL));
    EXPECT(NULL_ARGUMENT, blyan_session_cache_bytes(NULL, &length));
    EXPECT(NULL_ARGUMENT, blyan_session_cache_bytes(a_session, NULL));
    EXPECT(NULL_ARGUMENT, blyan_session_truncate(NULL, 0));
    blyan_session_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_stream_next(NULL, &a_piece, sizeof(blyan_piece)));
    EXPECT(NULL_ARGUMENT, blyan_stream_next(a_stream, NULL, sizeof(blyan_piece)));
    EXPECT_SIZES(blyan_stream_next(a_stream, &a_piece, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_stream_finish(NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_stream_finish(a_stream, NULL));
    blyan_stream_free(NULL);
}

void walk_usage(void)
{
    EXPECT(NULL_ARGUMENT, blyan_usage_top(NULL, 0, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_top(a_model, 0, NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_experts(NULL, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_experts(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_expert(NULL, "layer0.expert1", BLYAN_NUL, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_expert(a_model, NULL, BLYAN_NUL, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_expert(a_model, "layer0.expert1", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_usage_expert(a_model, BAD_UTF8, 1, &new_experts));
    EXPECT(INVALID_SIZE, blyan_usage_expert(a_model, "layer0.expert1", SIZE_MAX - 1, &new_experts));
    EXPECT_TRUE(blyan_experts_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_experts_get(NULL, 0, &a_expert_usage, sizeof(blyan_expert_usage)));
    EXPECT(NULL_ARGUMENT, blyan_experts_get(a_experts, 0, NULL, sizeof(blyan_expert_usage)));
    EXPECT(INVALID_ARGUMENT, blyan_experts_get(a_experts, SIZE_MAX, &a_expert_usage,
               sizeof(blyan_expert_usage)));
    EXPECT_SIZES(blyan_experts_get(a_experts, 0, &a_expert_usage, bad_size));
    blyan_experts_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_usage_co_use(NULL, &new_co_uses));
    EXPECT(NULL_ARGUMENT, blyan_usage_co_use(a_model, NULL));
    EXPECT_TRUE(blyan_co_uses_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_co_uses_get(NULL, 0, &a_co_use));
    EXPECT(NULL_ARGUMENT, blyan_co_uses_get(a_co_uses, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_co_uses_get(a_co_uses, SIZE_MAX, &a_co_use));
    blyan_co_uses_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_usage_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_usage_json(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_reset(NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_flush(NULL));
}

static void ignore(void *user, int32_t level, blyan_str target, blyan_str message)
{
    (void)user, (void)level, (void)target, (void)message;
}

void walk_log(void)
{
    EXPECT(INVALID_ARGUMENT, blyan_set_log_callback(ignore, NULL, 0));
    EXPECT(INVALID_ARGUMENT, blyan_set_log_callback(ignore, NULL, 6));
    EXPECT_TRUE(blyan_set_log_callback(ignore, NULL, BLYAN_LOG_LEVEL_TRACE) == BLYAN_STATUS_OK);
    EXPECT_TRUE(blyan_set_log_callback(NULL, NULL, 0) == BLYAN_STATUS_OK);
}
