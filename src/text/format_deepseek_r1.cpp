// DeepSeek-R1 and its distills: V3's turns, with the thoughts of earlier answers dropped. R1's
// generation prompt opens <think>; R1-0528's user turn ends with the Assistant marker and the model
// opens <think> itself. Source: the chat templates of R1 and R1-0528.
#include "text/prompt_builder.h"

namespace fathom::text {
namespace {

// Writes an answer to be continued, and says where its continuation begins.
OutputStart write_open_answer(const ChatMessage& message, PromptBuilder& out) {
  if (!message.reasoning_content) {
    const std::string_view content = after_last_think(message.content);
    out.message(content);
    return content.empty() ? OutputStart::kDetect : OutputStart::kContent;
  }
  out.marker(kThinkOpen).marker("\n").message(*message.reasoning_content);
  if (message.content.empty()) return OutputStart::kReasoning;
  out.marker("\n").marker(kThinkClose).marker("\n\n").message(message.content);
  return OutputStart::kContent;
}

}  // namespace

ChatPrompt render_deepseek_r1(std::span<const ChatMessage> messages, const ChatOptions& options) {
  PromptBuilder out;
  out.marker(kBos);
  write_system(messages, SystemPolicy::kLast, out);
  for (const ChatMessage& message : messages) {
    if (message.role == Role::kUser) out.marker(kUser).message(message.content);
    if (message.role != Role::kAssistant) continue;
    out.marker(kAssistant);
    if (options.continue_final && &message == &messages.back()) {
      const OutputStart start = write_open_answer(message, out);
      return out.finish(start);
    }
    out.message(after_last_think(message.content)).marker(kEos);
  }
  if (!options.add_generation_prompt) return out.finish(OutputStart::kDetect);
  out.marker(kAssistant).marker(kThinkOpen).marker("\n");
  return out.finish(OutputStart::kReasoning);
}

ChatPrompt render_deepseek_r1_0528(std::span<const ChatMessage> messages,
                                   const ChatOptions& options) {
  PromptBuilder out;
  out.marker(kBos);
  write_system(messages, SystemPolicy::kJoin, out);
  bool after_user = false;
  for (const ChatMessage& message : messages) {
    if (message.role == Role::kUser) {
      out.marker(kUser).message(message.content).marker(kAssistant);
      after_user = true;
    }
    if (message.role != Role::kAssistant) continue;
    after_user = false;
    if (options.continue_final && &message == &messages.back()) {
      const OutputStart start = write_open_answer(message, out);
      return out.finish(start);
    }
    out.message(after_last_think(message.content)).marker(kEos);
  }
  if (options.add_generation_prompt && !after_user) out.marker(kAssistant);
  return out.finish(OutputStart::kDetect);
}

}  // namespace fathom::text
