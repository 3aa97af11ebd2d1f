// The tables.
#include "api/routes.h"

#include "api/inference_routes.h"
#include "api/status_routes.h"

namespace fathom::api {
namespace {

using auth::Access;

constexpr Route kHealthLive{"GET", "/health/live", Access::kPublic,
                            false, handle_live,    "The process answers"};
constexpr Route kHealthReady{
    "GET", "/health/ready", Access::kPublic,
    false, handle_ready,    "The model is loaded and the step loop makes progress"};
constexpr Route kHealth{"GET", "/health",    Access::kPublic,
                        false, handle_ready, "Same as /health/ready"};
constexpr Route kVersion{"GET", "/version",     Access::kData,
                         false, handle_version, "Version and commit"};

constexpr Route kDataRoutes[] = {
    {"POST", "/v1/chat/completions", Access::kData, true, handle_chat_completions, "Answer a chat"},
    {"POST", "/v1/completions", Access::kData, true, handle_completions, "Continue a prompt"},
    {"POST", "/chat/completions", Access::kData, true, handle_chat_completions, "Answer a chat"},
    {"POST", "/completions", Access::kData, true, handle_completions, "Continue a prompt"},
    {"GET", "/v1/models", Access::kData, false, handle_models, "List the served models"},
    {"GET", "/v1/models/*", Access::kData, false, handle_model, "One served model"},
    {"GET", "/models", Access::kData, false, handle_models, "List the served models"},
    {"POST", "/tokenize", Access::kData, false, handle_tokenize, "Text or messages to token ids"},
    {"POST", "/detokenize", Access::kData, false, handle_detokenize, "Token ids to text"},
    {"GET", "/openapi.json", Access::kData, false, handle_openapi, "This interface as OpenAPI 3.1"},
    kVersion,
    kHealthLive,
    kHealthReady,
    kHealth,
};

constexpr Route kAdminRoutes[] = {
    {"GET", "/version", Access::kAdmin, false, handle_version, "Version and commit"},
    kHealthLive,
    kHealthReady,
    kHealth,
};

constexpr Route kMetricsRoutes[] = {
    {"GET", "/metrics", Access::kMetrics, false, handle_metrics, "Prometheus metrics"},
};

}  // namespace

std::span<const Route> data_routes() { return kDataRoutes; }
std::span<const Route> admin_routes() { return kAdminRoutes; }
std::span<const Route> metrics_routes() { return kMetricsRoutes; }

}  // namespace fathom::api
