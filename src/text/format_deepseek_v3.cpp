// DeepSeek-V3: BOS system (User text | Assistant text EOS)* Assistant. Source: the chat templates
// of V3 and V3-0324, which differ only in what several system messages make.
#include "text/prompt_builder.h"

namespace fathom::text {
namespace {

void write(std::span<const ChatMessage> messages, const ChatOptions& options, SystemPolicy system,
           PromptBuilder& out) {
  out.marker(kBos);
  write_system(messages, system, out);
  for (const ChatMessage& message : messages) {
    if (message.role == Role::kUser) out.marker(kUser).message(message.content);
    if (message.role != Role::kAssistant) continue;
    out.marker(kAssistant).message(message.content);
    const bool open = options.continue_final && &message == &messages.back();
    if (!open) out.marker(kEos);
  }
  if (options.add_generation_prompt && !options.continue_final) out.marker(kAssistant);
}

}  // namespace

ChatPrompt render_deepseek_v3(std::span<const ChatMessage> messages, const ChatOptions& options) {
  PromptBuilder out;
  write(messages, options, SystemPolicy::kLast, out);
  return out.finish(OutputStart::kContent);
}

// R1 checkpoints ship this template too, so an answer may open with <think>.
ChatPrompt render_deepseek_v3_0324(std::span<const ChatMessage> messages,
                                   const ChatOptions& options) {
  PromptBuilder out;
  write(messages, options, SystemPolicy::kJoin, out);
  return out.finish(options.continue_final ? OutputStart::kContent : OutputStart::kDetect);
}

}  // namespace fathom::text
