#include "api/parse_call.h"

#include <gtest/gtest.h>

namespace fathom::api {
namespace {

Result<ChatCall> chat(const std::string& text, ApiLimits limits = {}) {
  FATHOM_ASSIGN(Json body, parse_body(text, limits));
  return parse_chat_call(body, limits, {});
}

Result<CompletionCall> completion(const std::string& text, ApiLimits limits = {}) {
  FATHOM_ASSIGN(Json body, parse_body(text, limits));
  return parse_completion_call(body, limits, {});
}

std::string with(const std::string& fields) {
  return R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) +
         "}";
}

TEST(ParseChat, ReadsMessagesAndSampling) {
  auto call = chat(with(
      R"("temperature":0.5,"top_p":0.9,"seed":7,"n":2,"stop":["a","b"],"max_completion_tokens":5,
      "logprobs":true,"top_logprobs":3,"stream":true,"stream_options":{"include_usage":true},
      "logit_bias":{"5":-1.5},
      "stop_token_ids":[9],"min_tokens":1,"ignore_eos":true,"thinking":{"type":"enabled"},
      "return_token_ids":true)"));
  ASSERT_TRUE(call.is_ok()) << call.status().to_string();
  EXPECT_EQ(call->messages.size(), 1U);
  EXPECT_EQ(call->messages[0].content, "hi");
  EXPECT_FLOAT_EQ(call->sampling.temperature, 0.5F);
  EXPECT_EQ(call->sampling.seed, 7U);
  EXPECT_TRUE(call->seeded);
  EXPECT_EQ(call->choices, 2);
  EXPECT_EQ(call->stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(call->max_tokens, 5);
  EXPECT_EQ(call->sampling.logprobs, 3);
  EXPECT_TRUE(call->include_usage);
  EXPECT_EQ(call->sampling.logit_bias, (std::vector<std::pair<TokenId, float>>{{5, -1.5F}}));
  EXPECT_EQ(call->thinking, true);
  EXPECT_EQ(call->unknown_fields, 0U);
}

TEST(ParseChat, AcceptsContentAsPartsNullAndEmpty) {
  auto call = chat(R"({"messages":[{"role":"system","content":null},{"role":"user","content":[
      {"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":"",
      "reasoning_content":"r"},{"role":"user","content":"x"}]})");
  ASSERT_TRUE(call.is_ok()) << call.status().to_string();
  EXPECT_EQ(call->messages[1].content, "ab");
  EXPECT_EQ(call->messages[2].reasoning_content, "r");
}

TEST(ParseChat, TheRequestDeadlineBoundsTheTimeout) {
  ApiLimits limits;
  limits.request_deadline_ms = 2'000;
  const auto at = chat(with(R"("timeout_ms":2000)"), limits);
  ASSERT_TRUE(at.is_ok()) << at.status().to_string();
  EXPECT_EQ(at->timeout_ms, 2'000);
  const auto past = chat(with(R"("timeout_ms":2001)"), limits);
  ASSERT_FALSE(past.is_ok());
  EXPECT_EQ(past.status().subject(), "timeout_ms");
  EXPECT_NE(past.status().message().find("2000"), std::string::npos) << past.status().message();
  EXPECT_FALSE(chat(with(R"("timeout_ms":0)"), limits).is_ok());
}

TEST(ParseChat, CountsUnknownFieldsAndIgnoresThem) {
  auto call = chat(with(R"("frobnicate":1,"user":"u","xyz":{})"));
  ASSERT_TRUE(call.is_ok());
  EXPECT_EQ(call->unknown_fields, 2U);
}

struct Refusal {
  const char* fields;
  const char* subject;
  const char* reason;
};

class ParseChatRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(ParseChatRefuses, NamesTheField) {
  auto call = chat(with(GetParam().fields));
  ASSERT_FALSE(call.is_ok());
  EXPECT_EQ(call.status().subject(), GetParam().subject) << call.status().message();
  EXPECT_EQ(call.status().reason(), GetParam().reason);
  EXPECT_NE(call.status().message().find(GetParam().subject), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ParseChatRefuses,
    ::testing::Values(
        Refusal{R"("temperature":2.01)", "temperature", "invalid_value"},
        Refusal{R"("temperature":"hot")", "temperature", "invalid_type"},
        Refusal{R"("top_p":-0.1)", "top_p", "invalid_value"},
        Refusal{R"("n":9)", "n", "invalid_value"}, Refusal{R"("n":1.5)", "n", "invalid_type"},
        Refusal{R"("max_tokens":0)", "max_tokens", "invalid_value"},
        Refusal{R"("max_tokens":99999999999999999999)", "max_tokens", "invalid_value"},
        Refusal{R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "invalid_value"},
        Refusal{R"("top_logprobs":2)", "top_logprobs", "invalid_value"},
        Refusal{R"("stop":[1])", "stop", "invalid_type"},
        Refusal{R"("stop":["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])",
                "stop", "invalid_value"},
        Refusal{R"("logit_bias":{"x":1})", "logit_bias", "invalid_value"},
        Refusal{R"("logit_bias":{"1":101})", "logit_bias", "invalid_value"},
        Refusal{R"("tools":[{"type":"function"}])", "tools", "unsupported_parameter"},
        Refusal{R"("response_format":{"type":"json_object"})", "response_format",
                "unsupported_parameter"},
        Refusal{R"("stream_options":{"include_usage":true})", "stream_options", "invalid_value"},
        Refusal{R"("stream":"yes")", "stream", "invalid_type"},
        Refusal{R"("thinking":{"type":"maybe"})", "thinking", "invalid_value"},
        Refusal{R"("seed":"x")", "seed", "invalid_type"},
        Refusal{R"("chat_template_kwargs":{"thinking":1})", "chat_template_kwargs.thinking",
                "invalid_type"}));

TEST(ParseChat, NamesTheMessage) {
  EXPECT_EQ(chat(R"({"messages":[]})").status().subject(), "messages");
  EXPECT_EQ(chat(R"({})").status().reason(), "missing_required_parameter");
  EXPECT_EQ(chat(R"({"messages":[{"role":"user","content":"a"},{"role":"robot","content":"b"}]})")
                .status()
                .subject(),
            "messages[1].role");
  EXPECT_EQ(
      chat(R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]})")
          .status()
          .subject(),
      "messages[0].content[0]");
  EXPECT_EQ(chat(R"({"messages":[{"role":"tool","content":"x"}]})").status().code(),
            Code::kUnimplemented);
}

TEST(ParseCompletion, ReadsEveryFormOfPrompt) {
  EXPECT_EQ(completion(R"({"prompt":"a"})")->prompts.size(), 1U);
  EXPECT_EQ(completion(R"({"prompt":["a","b"]})")->prompts.size(), 2U);
  EXPECT_EQ(std::get<std::vector<TokenId>>(completion(R"({"prompt":[1,2]})")->prompts[0]),
            (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(completion(R"({"prompt":[[1],[2,3]]})")->prompts.size(), 2U);
  EXPECT_EQ(completion(R"({"prompt":[1,-2]})").status().subject(), "prompt");
  EXPECT_EQ(completion(R"({"prompt":{}})").status().subject(), "prompt");
  EXPECT_EQ(completion(R"({"prompt":"a","suffix":"b"})").status().subject(), "suffix");
  EXPECT_EQ(completion(R"({"prompt":"a","best_of":2})").status().subject(), "best_of");
}

TEST(ParseBody, RefusesWhatIsNotAnObject) {
  EXPECT_EQ(parse_body("[]", {}).status().reason(), "invalid_json");
  EXPECT_EQ(parse_body("{\"a\":1", {}).status().reason(), "invalid_json");
  EXPECT_EQ(parse_body(R"({"a":1,"a":2})", {}).status().reason(), "invalid_json");
}

}  // namespace
}  // namespace fathom::api
