// DeepSeek-V3.1, V3.1-Terminus and V3.2-Exp: every answer begins with a closed or an open <think>,
// by request. Source: V3.1's chat template.
#include "text/prompt_builder.h"

namespace fathom::text {
namespace {

// `content` after its first </think> (all of it if there is none).
std::string_view after_first_think(std::string_view content) {
  const std::size_t at = content.find(kThinkClose);
  return at == std::string_view::npos ? content : content.substr(at + kThinkClose.size());
}

// Writes an answer to be continued after its <think>, and says where its continuation begins.
OutputStart write_open_thought(const ChatMessage& message, PromptBuilder& out) {
  if (!message.reasoning_content) {
    out.message(after_first_think(message.content));
    return OutputStart::kReasoning;
  }
  out.message(*message.reasoning_content);
  if (message.content.empty()) return OutputStart::kReasoning;
  out.marker(kThinkClose).message(message.content);
  return OutputStart::kContent;
}

}  // namespace

ChatPrompt render_deepseek_v3_1(std::span<const ChatMessage> messages, const ChatOptions& options) {
  PromptBuilder out;
  out.marker(kBos);
  write_system(messages, SystemPolicy::kJoin, out);
  bool after_user = false;
  for (const ChatMessage& message : messages) {
    if (message.role == Role::kUser) {
      out.marker(kUser).message(message.content);
      after_user = true;
    }
    if (message.role != Role::kAssistant) continue;
    const bool open = options.continue_final && &message == &messages.back();
    const bool think = open && options.thinking;
    if (after_user) out.marker(kAssistant).marker(think ? kThinkOpen : kThinkClose);
    if (think && after_user) {
      const OutputStart start = write_open_thought(message, out);
      return out.finish(start);
    }
    after_user = false;
    out.message(after_first_think(message.content));
    if (!open) out.marker(kEos);
  }
  if (!options.add_generation_prompt || !after_user) return out.finish(OutputStart::kContent);
  out.marker(kAssistant).marker(options.thinking ? kThinkOpen : kThinkClose);
  return out.finish(options.thinking ? OutputStart::kReasoning : OutputStart::kContent);
}

}  // namespace fathom::text
