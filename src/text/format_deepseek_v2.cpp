// DeepSeek-V2 and V2-Lite chat, and LLM and Coder-V2, which share it: plain words for the turns,
// and every message in its place. Source: the chat template of DeepSeek-V2-Lite-Chat.
#include "text/prompt_builder.h"

namespace fathom::text {

ChatPrompt render_deepseek_v2(std::span<const ChatMessage> messages, const ChatOptions& options) {
  PromptBuilder out;
  out.marker(kBos);
  for (const ChatMessage& message : messages) {
    if (is_system(message)) out.message(message.content).marker("\n\n");
    if (message.role == Role::kUser) {
      out.marker("User: ").message(message.content).marker("\n\n");
    }
    if (message.role != Role::kAssistant) continue;
    out.marker("Assistant: ").message(message.content);
    const bool open = options.continue_final && &message == &messages.back();
    if (!open) out.marker(kEos);
  }
  // No space behind it: the first token of the answer brings its own.
  if (options.add_generation_prompt && !options.continue_final) out.marker("Assistant:");
  return out.finish(OutputStart::kContent);
}

}  // namespace fathom::text
