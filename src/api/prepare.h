// Calls to generations: chat format, tokenizer, context length, defaults. Pure but for the
// tokenizer's time: runs on the work pool.
#pragma once

#include "api/calls.h"
#include "api/generation.h"
#include "api/served_model.h"
#include "fathom/status.h"

namespace fathom::api {

// kNotFound (model_not_found) when `name` is neither empty nor the served model's.
Status check_model(const ApiContext& context, const std::string& name);

Result<GenerationSpec> prepare_chat(const ApiContext& context, const ChatCall& call);
Result<GenerationSpec> prepare_completion(const ApiContext& context, const CompletionCall& call);

// The prompt of a chat as token ids, as prepare_chat makes it (for /tokenize too).
Result<std::vector<TokenId>> encode_chat(const ApiContext& context, const ChatCall& call,
                                         text::OutputStart* output_start);

// Token ids of a text prompt, with BOS where the checkpoint's tokenizer adds it.
Result<std::vector<TokenId>> encode_text(const ApiContext& context, const std::string& text,
                                         const std::string& field);

// kInvalidArgument unless every id is a token of the model.
Status check_ids(const ApiContext& context, const std::vector<TokenId>& ids,
                 const std::string& field);

}  // namespace fathom::api
