// Chat messages to prompts. Each DeepSeek generation's prompt encoding is a compiled function, in a
// file of its own; a checkpoint's Jinja template is only looked at to tell which one it is. Pure;
// any thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"
#include "text/reasoning_parser.h"
#include "text/tokenizer.h"

namespace fathom::text {

enum class Role { kSystem, kDeveloper, kUser, kAssistant };

struct ChatMessage {
  Role role;
  std::string content;
  // Reasoning that an earlier answer came with. The formats drop it from history; only a continued
  // answer takes it up again.
  std::optional<std::string> reasoning_content;
};

enum class ChatFormat {
  kDeepSeekV2,       // V2 and V2-Lite chat, LLM chat, Coder-V2: turns in plain words
  kDeepSeekV3,       // V3 as first released: the last system message holds
  kDeepSeekV3_0324,  // system messages joined; R1 checkpoints with a bare generation prompt ship it
                     // too
  kDeepSeekR1,       // and its distills: answers begin inside <think>
  kDeepSeekR1_0528,  // and its Qwen3 distill: the model opens <think> itself
  kDeepSeekV3_1,     // and V3.1-Terminus, V3.2-Exp: thinking by request
};

struct ChatOptions {
  bool thinking = false;              // V3.1 only: R1 always thinks, V3 never does
  bool add_generation_prompt = true;  // end with what makes the model answer
  bool continue_final =
      false;  // the last message is the assistant's, and the answer goes on from it
};

struct ChatPrompt {
  std::vector<Segment> segments;  // for Tokenizer::encode; begins with BOS
  OutputStart output_start = OutputStart::kContent;
};

// The formats' names for --chat-format: "deepseek-v2", "deepseek-v3", "deepseek-v3-0324",
// "deepseek-r1", "deepseek-r1-0528", "deepseek-v3.1".
std::string_view chat_format_name(ChatFormat format);

// INVALID_ARGUMENT lists the names.
Result<ChatFormat> chat_format_by_name(std::string_view name);

// Tells the format of a checkpoint's Jinja template by what the template does. INVALID_ARGUMENT for
// one that is empty or not known, with the list of names.
Result<ChatFormat> recognise_chat_format(std::string_view chat_template);

// The prompt of a conversation. Developer messages count as system messages. INVALID_ARGUMENT: no
// messages, or continue_final where the last message is not the assistant's.
Result<ChatPrompt> render(ChatFormat format, std::span<const ChatMessage> messages,
                          const ChatOptions& options);

}  // namespace fathom::text
