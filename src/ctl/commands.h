// The commands of fathomctl: options as the command line left them, and what each does. Every run
// returns an exit code; errors go to console.err.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ctl/console.h"
#include "ctl/generation.h"

namespace fathom::ctl {

// How to reach a server.
struct ServerOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string key;       // an API key (from the environment)
  std::string key_file;  // a file whose first line is one
  TlsFiles tls;
  double timeout_seconds = 600;  // without a byte
};

Result<ClientConfig> client_config(const ServerOptions& options, const Console& console);

struct InspectOptions {
  std::string model;  // a model directory, or a config.json
  int64_t tensor_parallel = 1;
  int64_t pipeline_parallel = 1;
  std::string kv_dtype = "bfloat16";       // or fp8, or float32 (numerics reference)
  std::string device = "auto";             // or cpu, cuda: whose workspace
  std::optional<int64_t> memory_per_rank;  // bytes; none: this machine's
  std::optional<int64_t> max_model_len;
  int64_t max_num_seqs = 256;
  int64_t max_num_batched_tokens = 512;
  int64_t speculative_tokens = 0;
  std::string pack_weights = "auto";  // or off, on
};
int run_inspect(const InspectOptions& options, Console& console);

struct SynthCommand {
  std::string output;     // directory to make
  std::string config;     // path of a config.json
  std::string preset;     // or the name of a built-in one
  std::string dtype;      // "bf16", "fp8", "f32"; empty: as the config says
  std::string tokenizer;  // a directory whose tokenizer files are copied; empty: none
  int64_t seed = 0;
  int64_t shard_bytes_max = int64_t{5} << 30;
  int64_t threads = 0;       // 0: every core
  bool config_only = false;  // no weights: fathomd --load-format synthetic makes them
};
int run_synth(const SynthCommand& options, Console& console);

struct TokenizeOptions {
  ServerOptions server;
  std::string model_dir;  // a local tokenizer; empty: ask the server
  std::string text;       // empty: standard input
  bool add_special = true;
  bool detokenize = false;  // `text` is ids, separated by commas or spaces
};
int run_tokenize(const TokenizeOptions& options, Console& console);

struct ChatOptions {
  ServerOptions server;
  std::string model;    // empty: the first that the server lists
  std::string message;  // empty: interactive, or standard input when that is no terminal
  std::string system;
  SamplingFlags sampling;
  std::optional<bool> thinking;
};
int run_chat(const ChatOptions& options, Console& console);

struct CompleteOptions {
  ServerOptions server;
  std::string model;
  std::string prompt;  // empty: standard input
  SamplingFlags sampling;
};
int run_complete(const CompleteOptions& options, Console& console);

struct StatusOptions {
  ServerOptions server;
  std::string metrics_url = "http://127.0.0.1:9464";
  bool watch = false;
  double interval_seconds = 2;
};
int run_status(const StatusOptions& options, Console& console);

struct BenchOptions {
  ServerOptions server;
  std::string model;
  int64_t clients = 8;         // closed loop
  std::optional<double> rate;  // requests a second, Poisson: open loop
  int64_t requests = 100;      // measured ones
  std::optional<double> duration_seconds;
  std::optional<double> stop_seconds;  // answers are cut then, and count as far as they came
  int64_t warmup = 0;  // requests before the measured ones
  int64_t input_tokens = 128;
  int64_t output_tokens = 64;
  bool chat = false;  // /v1/chat/completions with text instead of token ids
  int64_t seed = 0;
  std::optional<double> slo_ttft_ms;
  std::optional<double> slo_tpot_ms;
  std::optional<double> slo_e2e_ms;
};
int run_bench_serve(const BenchOptions& options, Console& console);

struct KeysOptions {
  std::string name;
  std::string append_to;  // a key file to append the line to; empty: print it
};
int run_keys_create(const KeysOptions& options, Console& console);

}  // namespace fathom::ctl
