// Flags of every command, and which command was meant.
#include "ctl/command_line.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <sstream>

#include "base/version.h"
#include "ctl/commands.h"
#include "ctl/presets.h"

namespace fathom::ctl {
namespace {

// The options of every command; CLI11 writes into them while it parses.
struct AllOptions {
  bool json = false;
  InspectOptions inspect;
  SynthCommand synth;
  TokenizeOptions tokenize;
  ChatOptions chat;
  CompleteOptions complete;
  StatusOptions status;
  BenchOptions bench;
  KeysOptions keys;
  std::string thinking;
};

void add_server(CLI::App& app, ServerOptions& s) {
  app.add_option("--url", s.url, "Server: http[s]://host[:port][/prefix]")->capture_default_str();
  app.add_option("--api-key-file", s.key_file,
                 "File whose first line is the API key (else the variable FATHOM_API_KEY)");
  app.add_option("--tls-ca", s.tls.ca_file, "PEM authorities of the server (else the system's)");
  app.add_option("--tls-cert", s.tls.cert_file, "PEM client certificate");
  app.add_option("--tls-key", s.tls.key_file, "PEM key of the client certificate");
  app.add_flag("--insecure", s.tls.insecure, "Do not verify the server's certificate");
  app.add_option("--timeout", s.timeout_seconds, "Seconds without a byte before giving up")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
}

void add_sampling(CLI::App& app, SamplingFlags& s) {
  app.add_option("--temperature", s.temperature, "0 to 2; 0 takes the likeliest token")
      ->check(CLI::Range(0.0, 2.0));
  app.add_option("--top-p", s.top_p, "0 to 1")->check(CLI::Range(0.0, 1.0));
  app.add_option("--top-k", s.top_k, "0 turns it off")->check(CLI::Range(0, 1 << 20));
  app.add_option("--max-tokens", s.max_tokens, "Tokens of the answer at most")
      ->check(CLI::Range(1, 1 << 22));
  app.add_option("--seed", s.seed, "Seed of the sampler")->check(CLI::NonNegativeNumber);
  app.add_option("--stop", s.stop, "Text that ends the answer (may be given again)");
}

void add_inspect(CLI::App& app, InspectOptions& o) {
  app.add_option("model", o.model, "Model directory, or a config.json")->required();
  app.add_option("--tensor-parallel-size", o.tensor_parallel, "Ranks of the memory plan")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--pipeline-parallel-size", o.pipeline_parallel, "Stages of the memory plan")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--memory-per-rank", o.memory_per_rank,
                 "Memory of a rank (GB...), to plan for a machine that is not this one")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--max-model-len", o.max_model_len, "Longest sequence of the plan")
      ->check(CLI::Range(16, 1 << 22));
  app.add_option("--max-num-seqs", o.max_num_seqs, "Sequences at once of the plan")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--max-num-batched-tokens", o.max_num_batched_tokens, "Tokens of a step")
      ->check(CLI::Range(64, 262144))
      ->capture_default_str();
  app.add_option("--speculative-tokens", o.speculative_tokens, "Drafts a step")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  app.add_option("--kv-cache-dtype", o.kv_dtype, "bfloat16, fp8, or float32 (reference numerics)")
      ->check(CLI::IsMember({"bfloat16", "fp8", "float32"}))
      ->capture_default_str();
  app.add_option("--pack-weights", o.pack_weights, "off, on or auto, as of fathomd")
      ->check(CLI::IsMember({"off", "on", "auto"}))
      ->capture_default_str();
  app.add_option("--device", o.device,
                 "cpu, cuda, or auto: what is here; with --memory-per-rank cuda is an H100 of "
                 "that size, auto the CPU")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
}

void add_synth(CLI::App& app, SynthCommand& o) {
  app.add_option("output", o.output, "Directory to write")->required();
  auto* config = app.add_option("--config", o.config, "A config.json");
  app.add_option("--preset", o.preset, "One of: " + preset_names())
      ->check(CLI::IsMember(preset_list()))
      ->excludes(config);
  app.add_option("--dtype", o.dtype, "bf16, f32 or fp8 (128x128 blocks); else as the config says")
      ->check(CLI::IsMember({"bf16", "f32", "fp8"}));
  app.add_option("--tokenizer", o.tokenizer, "Directory whose tokenizer files are copied");
  app.add_option("--seed", o.seed, "Seed of the values")->check(CLI::NonNegativeNumber);
  app.add_option("--shard-size", o.shard_bytes_max, "Bytes of a shard at most (KB, MB, GB...)")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(int64_t{1} << 16, int64_t{1} << 40));
  app.add_option("--threads", o.threads, "Writing threads (else every core)")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--config-only", o.config_only,
               "Write no weights: fathomd --load-format synthetic makes them as it loads");
}

void add_tokenize(CLI::App& app, TokenizeOptions& o) {
  app.add_option("text", o.text, "Text (else standard input)");
  app.add_option("--model-dir", o.model_dir, "Use this directory's tokenizer, without a server");
  app.add_flag("!--no-special", o.add_special, "Leave out the token of the beginning");
  app.add_flag("--decode", o.detokenize, "The text is token ids; print what they say");
  add_server(app, o.server);
}

void add_chat(CLI::App& app, ChatOptions& o, std::string& thinking) {
  app.add_option("message", o.message, "One message (else a conversation, or standard input)");
  app.add_option("--model", o.model, "Model (else the first that the server lists)");
  app.add_option("--system", o.system, "System message");
  app.add_option("--thinking", thinking, "on or off, for models that can do both")
      ->check(CLI::IsMember({"on", "off"}));
  add_sampling(app, o.sampling);
  add_server(app, o.server);
}

void add_complete(CLI::App& app, CompleteOptions& o) {
  app.add_option("prompt", o.prompt, "Text to go on from (else standard input)");
  app.add_option("--model", o.model, "Model (else the first that the server lists)");
  add_sampling(app, o.sampling);
  add_server(app, o.server);
}

void add_status(CLI::App& app, StatusOptions& o) {
  app.add_flag("--watch,-w", o.watch, "Go on until interrupted");
  app.add_option("--interval", o.interval_seconds, "Seconds between looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app.add_option("--metrics-url", o.metrics_url, "The metrics listener")->capture_default_str();
  add_server(app, o.server);
}

void add_bench(CLI::App& app, BenchOptions& o) {
  app.add_option("--model", o.model, "Model (else the first that the server lists)");
  auto* clients = app.add_option("--clients", o.clients, "Closed loop: clients at a time")
                      ->check(CLI::Range(1, 4096))
                      ->capture_default_str();
  app.add_option("--rate", o.rate, "Open loop: requests a second, Poisson arrivals")
      ->check(CLI::Range(0.001, 100000.0))
      ->excludes(clients);
  app.add_option("--requests", o.requests, "Measured requests")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  app.add_option("--duration", o.duration_seconds, "Stop starting requests after these seconds")
      ->check(CLI::Range(0.1, 86400.0));
  app.add_option("--stop-after", o.stop_seconds,
                 "Cut answers after these seconds; what came until then counts")
      ->check(CLI::Range(0.1, 86400.0));
  app.add_option("--warmup", o.warmup, "Requests before the measured ones")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  app.add_option("--input-tokens", o.input_tokens, "Tokens of each prompt")
      ->check(CLI::Range(1, 1 << 22))
      ->capture_default_str();
  app.add_option("--output-tokens", o.output_tokens, "Tokens of each answer")
      ->check(CLI::Range(1, 1 << 22))
      ->capture_default_str();
  app.add_flag("--chat", o.chat, "Use chat completions and text prompts");
  app.add_option("--seed", o.seed, "Seed of prompts and arrivals")->check(CLI::NonNegativeNumber);
  app.add_option("--slo-ttft-ms", o.slo_ttft_ms, "Goodput: time to first token at most");
  app.add_option("--slo-tpot-ms", o.slo_tpot_ms, "Goodput: time per output token at most");
  app.add_option("--slo-e2e-ms", o.slo_e2e_ms, "Goodput: whole request at most");
  add_server(app, o.server);
}

void add_keys(CLI::App& app, KeysOptions& o) {
  app.add_option("name", o.name, "Whose key it is")->required();
  app.add_option("--append-to", o.append_to, "Key file of the server to append the line to");
}

// CLI11's messages and codes become ours.
int explain(const CLI::App& app, const CLI::ParseError& error, Console& console) {
  const std::vector<std::string> unknown = app.remaining();
  if (error.get_name() == "RequiredError" && !unknown.empty()) {
    console.err << "fathomctl: there is no command '" << printable(unknown.front())
                << "'\nRun with --help for more information." << std::endl;
    return kExitUsage;
  }
  std::ostringstream out;
  std::ostringstream err;
  const int code = app.exit(error, out, err);
  console.out << out.str() << std::flush;
  console.err << err.str() << std::flush;
  return code == 0 ? kExitOk : kExitUsage;
}

std::function<int(Console&)> chosen(const CLI::App& app, const std::shared_ptr<AllOptions>& o) {
  if (app.got_subcommand("inspect")) return [o](Console& c) { return run_inspect(o->inspect, c); };
  if (app.got_subcommand("synth")) return [o](Console& c) { return run_synth(o->synth, c); };
  if (app.got_subcommand("tokenize")) {
    return [o](Console& c) { return run_tokenize(o->tokenize, c); };
  }
  if (app.got_subcommand("chat")) return [o](Console& c) { return run_chat(o->chat, c); };
  if (app.got_subcommand("complete")) {
    return [o](Console& c) { return run_complete(o->complete, c); };
  }
  if (app.got_subcommand("status")) return [o](Console& c) { return run_status(o->status, c); };
  if (app.got_subcommand("bench")) return [o](Console& c) { return run_bench_serve(o->bench, c); };
  return [o](Console& c) { return run_keys_create(o->keys, c); };
}

}  // namespace

Parsed parse_command_line(int argc, const char* const* argv, const Environment& environment,
                          Console& console) {
  auto o = std::make_shared<AllOptions>();
  CLI::App app("Client and tools of the Fathom inference server.", "fathomctl");
  app.set_version_flag("--version", std::string("fathomctl ") + std::string(version()) + " (" +
                                        std::string(commit()) + ")");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", o->json, "Print one JSON document instead of text for people");
  add_inspect(*app.add_subcommand("inspect", "What a model is, and what memory it needs"),
              o->inspect);
  add_synth(*app.add_subcommand("synth", "Write a checkpoint of generated weights"), o->synth);
  add_tokenize(*app.add_subcommand("tokenize", "Text to token ids, or back"), o->tokenize);
  add_chat(*app.add_subcommand("chat", "Talk with a model"), o->chat, o->thinking);
  add_complete(*app.add_subcommand("complete", "Let a model go on from a text"), o->complete);
  add_status(*app.add_subcommand("status", "How a server is"), o->status);
  auto* bench = app.add_subcommand("bench", "Measure");
  bench->require_subcommand(1);
  add_bench(*bench->add_subcommand("serve", "Latency and throughput of a server"), o->bench);
  auto* keys = app.add_subcommand("keys", "API keys");
  keys->require_subcommand(1);
  add_keys(*keys->add_subcommand("create", "Make a key: it is shown once"), o->keys);
  Parsed parsed;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    parsed.exit_code = explain(app, error, console);
    return parsed;
  }
  if (!o->thinking.empty()) o->chat.thinking = o->thinking == "on";
  for (ServerOptions* s : {&o->tokenize.server, &o->chat.server, &o->complete.server,
                           &o->status.server, &o->bench.server}) {
    s->key = environment.api_key;
  }
  parsed.json = o->json;
  parsed.run = chosen(app, o);
  return parsed;
}

}  // namespace fathom::ctl
