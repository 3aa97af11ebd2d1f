// Sampling, stopping and output fields of a JSON body.
#include "api/parse_common.h"

#include <charconv>

namespace fathom::api {
namespace {

void read_stop(FieldReader& fields, const ApiLimits& limits, CommonCall& call) {
  const Json* value = fields.find("stop");
  if (value == nullptr) return;
  if (value->is_string()) {
    if (!value->get_ref<const std::string&>().empty())
      call.stop.push_back(value->get<std::string>());
    return;
  }
  if (!value->is_array()) {
    return fields.fail("stop", "must be a string or an array of strings", Code::kInvalidArgument,
                       "invalid_type");
  }
  if (value->size() > static_cast<size_t>(limits.stop_max)) {
    return fields.fail("stop", "may have at most " + std::to_string(limits.stop_max) +
                                   " strings, not " + std::to_string(value->size()));
  }
  for (const Json& item : *value) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      return fields.fail("stop", "must hold strings that are not empty", Code::kInvalidArgument,
                         "invalid_type");
    }
    call.stop.push_back(item.get<std::string>());
  }
}

void read_stop_token_ids(FieldReader& fields, CommonCall& call) {
  const Json* value = fields.find("stop_token_ids");
  if (value == nullptr) return;
  if (!value->is_array() || value->size() > kStopTokenIdsMax) {
    return fields.fail("stop_token_ids", "must be an array of at most " +
                                             std::to_string(kStopTokenIdsMax) + " token ids");
  }
  for (const Json& item : *value) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > INT32_MAX) {
      return fields.fail("stop_token_ids", "must hold token ids", Code::kInvalidArgument,
                         "invalid_type");
    }
    call.sampling.stop_token_ids.push_back(item.get<TokenId>());
  }
}

void read_logit_bias(FieldReader& fields, const ApiLimits& limits, CommonCall& call) {
  const Json* value = fields.find("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object() || value->size() > static_cast<size_t>(limits.logit_bias_max)) {
    return fields.fail("logit_bias", "must be an object of at most " +
                                         std::to_string(limits.logit_bias_max) +
                                         " entries, from token id to bias");
  }
  for (const auto& [key, bias] : value->items()) {
    TokenId id = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0) {
      return fields.fail("logit_bias", "has the key \"" + key + "\", which is not a token id");
    }
    const double number = bias.is_number() ? bias.get<double>() : 1e9;
    if (!(number >= kBiasRange.low && number <= kBiasRange.high)) {
      return fields.fail("logit_bias", "must give each token a number between -100 and 100");
    }
    call.sampling.logit_bias.emplace_back(id, static_cast<float>(number));
  }
}

void read_stream_options(FieldReader& fields, CommonCall& call) {
  const Json* value = fields.find("stream_options");
  if (value == nullptr) return;
  if (!value->is_object()) {
    return fields.fail("stream_options", "must be an object", Code::kInvalidArgument,
                       "invalid_type");
  }
  if (!call.stream) return fields.fail("stream_options", "is allowed only when stream is true");
  FieldReader options(*value, fields.path("stream_options") + ".");
  options.boolean("include_usage", call.include_usage);
  options.ignore({"include_obfuscation", "continuous_usage_stats"});
  if (!options.ok()) fields.fail(options.status());
}

void read_response_format(FieldReader& fields) {
  const Json* value = fields.find("response_format");
  if (value == nullptr) return;
  const bool text = value->is_object() && value->value("type", std::string()) == "text";
  if (!text) {
    fields.fail("response_format", "other than {\"type\":\"text\"} is not supported by this server",
                Code::kUnimplemented, "unsupported_parameter");
  }
}

}  // namespace

void read_common_fields(FieldReader& fields, const ApiLimits& limits,
                        const SamplingDefaults& defaults, CommonCall& call) {
  SamplingParams& sampling = call.sampling;
  sampling.temperature = defaults.temperature;
  sampling.top_p = defaults.top_p;
  sampling.top_k = defaults.top_k;
  fields.string("model", 256, call.model);
  fields.number("temperature", kTemperatureRange, sampling.temperature);
  fields.number("top_p", kProbabilityRange, sampling.top_p);
  fields.integer("top_k", -1, INT32_MAX, sampling.top_k);
  fields.number("min_p", kProbabilityRange, sampling.min_p);
  fields.number("presence_penalty", kPenaltyRange, sampling.presence_penalty);
  fields.number("frequency_penalty", kPenaltyRange, sampling.frequency_penalty);
  fields.number("repetition_penalty", kRepetitionRange, sampling.repetition_penalty);
  if (sampling.top_k < 0) sampling.top_k = 0;
  if (const Json* seed = fields.find("seed"); seed != nullptr) {
    if (!seed->is_number_integer())
      fields.fail("seed", "must be an integer", Code::kInvalidArgument, "invalid_type");
    sampling.seed = seed->is_number_unsigned()  ? seed->get<uint64_t>()
                    : seed->is_number_integer() ? static_cast<uint64_t>(seed->get<int64_t>())
                                                : 0;
    call.seeded = true;
  }
  fields.integer("n", 1, limits.choices_max, call.choices);
  fields.integer("min_tokens", 0, INT32_MAX, sampling.min_tokens);
  fields.boolean("ignore_eos", sampling.ignore_eos);
  fields.boolean("stream", call.stream);
  fields.boolean("include_stop_str_in_output", call.include_stop);
  fields.boolean("skip_special_tokens", call.skip_special_tokens);
  fields.boolean("return_token_ids", call.return_token_ids);
  fields.integer("priority", INT32_MIN, INT32_MAX, call.priority);
  fields.string("cache_salt", 512, call.cache_identity);
  if (call.cache_identity.empty()) fields.string("user_id", 512, call.cache_identity);
  int64_t timeout_ms = 0;
  fields.integer("timeout_ms", 1, limits.request_deadline_ms, timeout_ms);
  if (timeout_ms > 0) call.timeout_ms = timeout_ms;
  read_stop(fields, limits, call);
  read_stop_token_ids(fields, call);
  read_logit_bias(fields, limits, call);
  read_stream_options(fields, call);
  read_response_format(fields);
  fields.ignore({"user", "user_id", "metadata", "store", "service_tier", "safety_identifier",
                 "prompt_cache_key"});
}

}  // namespace fathom::api
