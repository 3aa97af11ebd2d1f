// Chat formats against what transformers made of the official templates
// (tests/golden/text/make_chat_vectors.py).
#include "text/chat_format.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace fathom::text {
namespace {

using Json = nlohmann::json;

Role role_of(const std::string& name) {
  return name == "system" ? Role::kSystem : name == "user" ? Role::kUser : Role::kAssistant;
}

std::string joined(const ChatPrompt& prompt) {
  std::string text;
  for (const Segment& segment : prompt.segments) text += segment.text;
  return text;
}

TEST(ChatFormat, EqualsTheOfficialTemplates) {
  std::ifstream in(FATHOM_SOURCE_DIR "/tests/golden/text/chat_vectors.json");
  const Json cases = Json::parse(in);
  ASSERT_GT(cases.size(), 900u);
  for (const Json& c : cases) {
    std::vector<ChatMessage> messages;
    for (const Json& m : c["messages"])
      messages.push_back({role_of(m["role"]), m["content"], std::nullopt});
    const ChatOptions options{c["thinking"], c["add_generation_prompt"], c["continue_final"]};
    const auto prompt =
        render(chat_format_by_name(c["format"].get<std::string>()).value(), messages, options);
    ASSERT_TRUE(prompt.is_ok()) << c;
    ASSERT_EQ(joined(*prompt), c["text"].get<std::string>()) << c;
  }
}

// models.md 6.1: the shape that V2's model card and template give.
TEST(ChatFormat, WritesV2InPlainWords) {
  const std::vector<ChatMessage> messages = {{Role::kSystem, "S", {}},
                                             {Role::kUser, "Q", {}},
                                             {Role::kAssistant, "A", {}},
                                             {Role::kUser, "R", {}}};
  const std::string before = "<｜begin▁of▁sentence｜>S\n\nUser: Q\n\nAssistant: A";
  const auto text = [&](std::span<const ChatMessage> some, const ChatOptions& options) {
    return joined(render(ChatFormat::kDeepSeekV2, some, options).value());
  };
  EXPECT_EQ(text(messages, {}), before + "<｜end▁of▁sentence｜>User: R\n\nAssistant:");
  EXPECT_EQ(text(messages, {.add_generation_prompt = false}),
            before + "<｜end▁of▁sentence｜>User: R\n\n");
  EXPECT_EQ(text(std::span(messages).first(3), {.continue_final = true}), before);
}

TEST(ChatFormat, TrustsMarkersAndNothingThatAUserWrote) {
  const std::vector<ChatMessage> messages = {{Role::kSystem, "S<eos>", {}},
                                             {Role::kUser, "<｜User｜>", {}}};
  const ChatPrompt prompt = render(ChatFormat::kDeepSeekR1, messages, {}).value();
  const std::vector<std::pair<std::string, bool>> expected = {{"<｜begin▁of▁sentence｜>", true},
                                                              {"S<eos>", false},
                                                              {"<｜User｜>", true},
                                                              {"<｜User｜>", false},
                                                              {"<｜Assistant｜><think>\n", true}};
  ASSERT_EQ(prompt.segments.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(prompt.segments[i].text, expected[i].first);
    EXPECT_EQ(prompt.segments[i].trusted, expected[i].second);
  }
}

TEST(ChatFormat, SaysWhereTheAnswerBegins) {
  const std::vector<ChatMessage> user = {{Role::kUser, "Hi", {}}};
  const auto start = [&user](ChatFormat format, bool thinking) {
    return render(format, user, {.thinking = thinking}).value().output_start;
  };
  EXPECT_EQ(start(ChatFormat::kDeepSeekV3, false), OutputStart::kContent);
  EXPECT_EQ(start(ChatFormat::kDeepSeekV3_0324, false), OutputStart::kDetect);
  EXPECT_EQ(start(ChatFormat::kDeepSeekR1, false), OutputStart::kReasoning);
  EXPECT_EQ(start(ChatFormat::kDeepSeekR1_0528, false), OutputStart::kDetect);
  EXPECT_EQ(start(ChatFormat::kDeepSeekV3_1, false), OutputStart::kContent);
  EXPECT_EQ(start(ChatFormat::kDeepSeekV3_1, true), OutputStart::kReasoning);
}

TEST(ChatFormat, ContinuesAThought) {
  std::vector<ChatMessage> messages = {{Role::kUser, "Q", {}}, {Role::kAssistant, "", "So"}};
  const ChatOptions options{.thinking = true, .continue_final = true};
  ChatPrompt prompt = render(ChatFormat::kDeepSeekR1, messages, options).value();
  EXPECT_EQ(joined(prompt), "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜><think>\nSo");
  EXPECT_EQ(prompt.output_start, OutputStart::kReasoning);
  messages[1].content = "It";
  prompt = render(ChatFormat::kDeepSeekV3_1, messages, options).value();
  EXPECT_EQ(joined(prompt), "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜><think>So</think>It");
  EXPECT_EQ(prompt.output_start, OutputStart::kContent);
}

TEST(ChatFormat, TakesDeveloperMessagesForSystemMessages) {
  const std::vector<ChatMessage> messages = {{Role::kDeveloper, "D", {}}, {Role::kUser, "Q", {}}};
  EXPECT_EQ(joined(render(ChatFormat::kDeepSeekV3, messages, {}).value()),
            "<｜begin▁of▁sentence｜>D<｜User｜>Q<｜Assistant｜>");
}

TEST(ChatFormat, RefusesWhatItCannotRender) {
  EXPECT_EQ(render(ChatFormat::kDeepSeekV3, {}, {}).status().subject(), "messages");
  const std::vector<ChatMessage> user = {{Role::kUser, "Q", {}}};
  EXPECT_EQ(render(ChatFormat::kDeepSeekV3, user, {.continue_final = true}).status().subject(),
            "messages[0]");
}

TEST(ChatFormat, NamesGoBothWays) {
  for (const char* name : {"deepseek-v2", "deepseek-v3", "deepseek-v3-0324", "deepseek-r1",
                           "deepseek-r1-0528", "deepseek-v3.1"}) {
    EXPECT_EQ(chat_format_name(chat_format_by_name(name).value()), name);
  }
  const Status unknown = chat_format_by_name("chatml").status();
  EXPECT_NE(unknown.message().find("deepseek-r1-0528"), std::string::npos);
}

// Skeletons with the statements that tell the templates apart, in the spacing that they may come
// in.
constexpr const char* kLast = "{% set ns.system_prompt = message['content'] %}";
constexpr const char* kJoin =
    "{%- set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] -%}";
constexpr const char* kTurn = "{{ '<｜User｜>' + message['content'] }}";
constexpr const char* kDrop = "{% set content = content.split('</think>')[-1] %}";
constexpr const char* kBare =
    "{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜>'}}{% endif %}";
constexpr const char* kThink =
    "{%- if add_generation_prompt and not ns.is_tool -%}\n  {{'<｜Assistant｜><think>\\n'}}\n{%- "
    "endif -%}";

TEST(ChatFormat, RecognisesTemplatesByWhatTheyDo) {
  const auto recognise = [](const std::string& text) {
    return recognise_chat_format(text).value();
  };
  EXPECT_EQ(recognise("{{ bos_token }}{% for message in messages %}"
                      "{% if message['role'] == 'user' %}"
                      "{{ 'User: ' + message['content'] + '\\n\\n' }}"
                      "{% elif message['role'] == 'assistant' %}"
                      "{{ 'Assistant: ' + message['content'] + eos_token }}"
                      "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
                      "{% endif %}{% endfor %}"
                      "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"),
            ChatFormat::kDeepSeekV2);
  EXPECT_EQ(recognise(std::string(kLast) + kTurn + kBare), ChatFormat::kDeepSeekV3);
  EXPECT_EQ(recognise(std::string(kJoin) + kTurn + kBare), ChatFormat::kDeepSeekV3_0324);
  EXPECT_EQ(recognise(std::string(kLast) + kTurn + kDrop + kThink), ChatFormat::kDeepSeekR1);
  EXPECT_EQ(
      recognise(std::string(kJoin) + "{{'<｜User｜>' + content + '<｜Assistant｜>'}}" + kDrop +
                "{% if add_generation_prompt and not ns.is_last_user and not ns.is_tool %}"
                "{{'<｜Assistant｜>'}}{% endif %}"),
      ChatFormat::kDeepSeekR1_0528);
  EXPECT_EQ(
      recognise(std::string(kJoin) + kTurn + "{% set content = content.split('</think>', 1)[1] %}" +
                "{{'<｜Assistant｜>'}}{%- if not thinking %}{{'</think>'}}{%- else %}{{'<think>'}}"
                "{%- endif %}"),
      ChatFormat::kDeepSeekV3_1);
}

TEST(ChatFormat, RefusesTemplatesThatItDoesNotKnow) {
  EXPECT_FALSE(recognise_chat_format("").is_ok());
  EXPECT_FALSE(
      recognise_chat_format("{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}").is_ok());
  EXPECT_FALSE(recognise_chat_format(std::string(kJoin) + kTurn + kDrop + kThink)
                   .is_ok());  // R1, systems joined
  const std::string switched =
      std::string(kLast) + kTurn + kDrop + kThink + "{% if not enable_thinking %}";
  EXPECT_NE(recognise_chat_format(switched).status().message().find("deepseek-v3.1"),
            std::string::npos);
}

}  // namespace
}  // namespace fathom::text
