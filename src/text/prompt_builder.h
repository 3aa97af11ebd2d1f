// What the chat formats write with: markers are trusted, message texts are not. Local to one render
// call.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "text/chat_format.h"

namespace fathom::text {

inline constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kThinkOpen = "<think>";
inline constexpr std::string_view kThinkClose = "</think>";

class PromptBuilder {
 public:
  PromptBuilder& marker(std::string_view text) { return add(text, true); }
  PromptBuilder& message(std::string_view text) { return add(text, false); }

  ChatPrompt finish(OutputStart start) {
    prompt_.output_start = start;
    return std::move(prompt_);
  }

 private:
  PromptBuilder& add(std::string_view text, bool trusted) {
    if (text.empty()) return *this;
    std::vector<Segment>& segments = prompt_.segments;
    if (segments.empty() || segments.back().trusted != trusted) segments.push_back({{}, trusted});
    segments.back().text += text;
    return *this;
  }

  ChatPrompt prompt_;
};

inline bool is_system(const ChatMessage& message) {
  return message.role == Role::kSystem || message.role == Role::kDeveloper;
}

// How a template treats several system messages.
enum class SystemPolicy { kLast, kJoin };

// Writes the system text that goes before the first turn.
void write_system(std::span<const ChatMessage> messages, SystemPolicy policy, PromptBuilder& out);

// `content` after its last </think> (all of it if there is none).
std::string_view after_last_think(std::string_view content);

// The compiled formats, each in its own file. `messages` is not empty, and ends with the
// assistant's message if options.continue_final is set.
ChatPrompt render_deepseek_v2(std::span<const ChatMessage> messages, const ChatOptions& options);
ChatPrompt render_deepseek_v3(std::span<const ChatMessage> messages, const ChatOptions& options);
ChatPrompt render_deepseek_v3_0324(std::span<const ChatMessage> messages,
                                   const ChatOptions& options);
ChatPrompt render_deepseek_r1(std::span<const ChatMessage> messages, const ChatOptions& options);
ChatPrompt render_deepseek_r1_0528(std::span<const ChatMessage> messages,
                                   const ChatOptions& options);
ChatPrompt render_deepseek_v3_1(std::span<const ChatMessage> messages, const ChatOptions& options);

}  // namespace fathom::text
