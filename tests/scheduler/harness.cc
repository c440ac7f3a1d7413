#include "tests/scheduler/harness.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace spillway::scheduler {

const text::Tokenizer& TestTokenizer() {
  static const text::Tokenizer* const tokenizer = [] {
    text::Vocabulary vocabulary;
    vocabulary.model = "llama";
    const auto add = [&](std::string token, text::TokenType type) {
      vocabulary.tokens.push_back(std::move(token));
      vocabulary.types.push_back(type);
      vocabulary.scores.push_back(-static_cast<float>(vocabulary.tokens.size()));
    };
    add("<unk>", text::TokenType::kUnknown);
    add("<s>", text::TokenType::kControl);
    add("</s>", text::TokenType::kControl);
    for (char c = 'a'; c <= 'f'; ++c) add(std::string(1, c), text::TokenType::kNormal);
    for (char c = 'a'; c <= 'f'; ++c) {
      for (char d = 'a'; d <= 'f'; ++d) add({c, d}, text::TokenType::kNormal);
    }
    add("<0xC3>", text::TokenType::kByte);  // 0xC3 0xA9 is e with an acute accent
    add("<0xA9>", text::TokenType::kByte);
    for (int i = 0; vocabulary.tokens.size() < kVocabSize; ++i) {
      add(absl::StrCat("word", i), text::TokenType::kNormal);
    }
    vocabulary.unknown = 0;
    vocabulary.bos = 1;
    vocabulary.eos = kStopToken;
    auto created = text::Tokenizer::Create(std::move(vocabulary));
    SPILLWAY_CHECK(created.ok());
    return std::move(created).value().release();
  }();
  return *tokenizer;
}

Client::Client(Request the_request, int32_t max_events, int64_t max_bytes)
    : request(std::move(the_request)),
      stream(std::make_shared<TokenStream>(
          max_events, [] {}, max_bytes)),
      choices(static_cast<size_t>(request.n_choices)) {}

Client::Choice* Client::ChoiceOf(int32_t index) {
  if (index < 0 || index >= request.n_choices) {
    Fault(absl::StrCat("an event of choice ", index));
    return nullptr;
  }
  Choice& choice = choices[static_cast<size_t>(index)];
  if (choice.finished.has_value()) Fault("an event after the choice finished");
  return &choice;
}

void Client::Read() {
  if (ended) return;
  std::vector<Event> events;
  const bool end = stream->Take(&events, &status);
  for (Event& event : events) {
    if (usage.has_value()) Fault("an event after usage");
    if (auto* started_event = std::get_if<StartedEvent>(&event)) {
      if (started.has_value()) Fault("started twice");
      started = *started_event;
      continue;
    }
    if (!started.has_value()) Fault("an event before started");
    if (auto* progress_event = std::get_if<ProgressEvent>(&event)) {
      progress.push_back(*progress_event);
    } else if (auto* delta = std::get_if<DeltaEvent>(&event)) {
      if (Choice* choice = ChoiceOf(delta->index)) {
        choice->text += delta->text;
        choice->tokens.insert(choice->tokens.end(), delta->tokens.begin(), delta->tokens.end());
        choice->logprobs.insert(choice->logprobs.end(), delta->logprobs.begin(), delta->logprobs.end());
      }
    } else if (auto* finished = std::get_if<FinishedEvent>(&event)) {
      if (Choice* choice = ChoiceOf(finished->index)) choice->finished = *finished;
    } else if (auto* usage_event = std::get_if<UsageEvent>(&event)) {
      for (const Choice& choice : choices) {
        if (!choice.finished.has_value()) Fault("usage before a choice finished");
      }
      usage = *usage_event;
    }
  }
  if (!end) return;
  ended = true;
  ++times_ended;
  if (status.ok() != usage.has_value()) Fault("usage and the status do not fit");
}

Client::Choice ExpectedChoice(const Request& request, int32_t index,
                              const fakes::FakeExecutorOptions& options) {
  const text::Tokenizer& tokenizer = TestTokenizer();
  std::vector<text::TokenId> stops = request.stop_ids;
  if (!request.ignore_eos) stops.push_back(kStopToken);
  fakes::ReferenceModel model(options);
  std::vector<text::TokenId> history = request.prompt;
  for (const text::TokenId token : history) model.Append(token);

  Client::Choice choice;
  FinishedEvent& finished = choice.finished.emplace();
  finished.index = index;
  while (true) {
    device::SampleRow row{};
    row.temperature = request.sampling.temperature;
    row.repetition_penalty = request.sampling.repetition_penalty;
    row.seed = request.sampling.seed;
    row.choice = static_cast<uint32_t>(index);
    row.position = row.n_history = static_cast<int32_t>(history.size());
    row.history = history.data();
    row.n_prompt = static_cast<int32_t>(request.prompt.size());
    if (static_cast<int32_t>(choice.tokens.size()) < request.min_tokens) {
      row.forbidden_ids = stops.data();
      row.n_forbidden_ids = static_cast<int32_t>(stops.size());
    }
    const text::TokenId token = model.Draw(row, options.vocab_size);
    choice.tokens.push_back(token);
    history.push_back(token);
    model.Append(token);
    const bool stop_token = std::find(stops.begin(), stops.end(), token) != stops.end();
    const auto text_ids = absl::MakeConstSpan(choice.tokens).first(choice.tokens.size() - stop_token);
    choice.text = tokenizer.Decode(text_ids, request.skip_special).value();
    // Not in the text of the first min_tokens tokens: what of it later tokens do not change.
    const auto first_ids = text_ids.first(std::min(text_ids.size(), static_cast<size_t>(request.min_tokens)));
    const std::string first_text = tokenizer.Decode(first_ids, request.skip_special).value();
    const auto looked_from =
        std::mismatch(first_text.begin(), first_text.end(), choice.text.begin(), choice.text.end()).second -
        choice.text.begin();
    // The first stop string to be completed; the longest of those that end at the same byte.
    size_t stop_end = std::string::npos;
    size_t stop_size = 0;
    for (const std::string& stop : request.stop_strings) {
      const size_t at = choice.text.find(stop, static_cast<size_t>(looked_from));
      if (at == std::string::npos) continue;
      const size_t end = at + stop.size();
      if (end < stop_end || (end == stop_end && stop.size() > stop_size)) {
        stop_end = end;
        stop_size = stop.size();
      }
    }
    if (stop_end != std::string::npos && !stop_token) {
      finished.reason = FinishReason::kStopString;
      finished.stop_string = choice.text.substr(stop_end - stop_size, stop_size);
      choice.text.resize(request.include_stop ? stop_end : stop_end - stop_size);
      return choice;
    }
    if (stop_token) {
      finished.reason = FinishReason::kStopToken;
      finished.stop_token = token;
      return choice;
    }
    if (static_cast<int32_t>(choice.tokens.size()) == request.max_tokens) {
      finished.reason = FinishReason::kLength;
      return choice;
    }
  }
}

std::vector<std::string> CompareWithAlone(const Client& client, const fakes::FakeExecutorOptions& options) {
  std::vector<std::string> faults;
  int32_t generated = 0;
  for (int32_t index = 0; index < client.request.n_choices; ++index) {
    const Client::Choice& got = client.choices[static_cast<size_t>(index)];
    const Client::Choice expected = ExpectedChoice(client.request, index, options);
    generated += static_cast<int32_t>(got.tokens.size());
    const std::string who = absl::StrCat(client.request.label, " choice ", index, ": ");
    const bool whole = client.ended_well() || got.finished.has_value();
    const bool tokens_agree = got.tokens.size() <= expected.tokens.size() &&
                              std::equal(got.tokens.begin(), got.tokens.end(), expected.tokens.begin()) &&
                              (!whole || got.tokens.size() == expected.tokens.size());
    if (!tokens_agree) {
      const auto differ =
          std::mismatch(got.tokens.begin(), got.tokens.end(), expected.tokens.begin(), expected.tokens.end());
      faults.push_back(absl::StrCat(who, "tokens differ at ", differ.first - got.tokens.begin(), " of ",
                                    got.tokens.size(), ", expected ", expected.tokens.size()));
    }
    const bool text_agrees =
        whole ? got.text == expected.text : expected.text.compare(0, got.text.size(), got.text) == 0;
    if (!text_agrees) {
      faults.push_back(absl::StrCat(who, "text \"", got.text, "\", expected \"", expected.text, "\""));
    }
    if (got.finished.has_value() && (got.finished->reason != expected.finished->reason ||
                                     got.finished->stop_string != expected.finished->stop_string ||
                                     got.finished->stop_token != expected.finished->stop_token)) {
      faults.push_back(absl::StrCat(who, "finished otherwise"));
    }
    const size_t logprobs = client.request.sampling.n_logprobs >= 0 ? got.tokens.size() : 0;
    if (got.logprobs.size() != logprobs) faults.push_back(absl::StrCat(who, "logprobs are not one a token"));
  }
  if (client.usage.has_value() &&
      (client.usage->generated_tokens != generated ||
       client.usage->prompt_tokens != static_cast<int32_t>(client.request.prompt.size()))) {
    faults.push_back(absl::StrCat(client.request.label, ": usage is not what was delivered"));
  }
  if (client.usage.has_value() &&
      (client.usage->cached_tokens < 0 || client.usage->cached_tokens >= client.usage->prompt_tokens)) {
    faults.push_back(absl::StrCat(client.request.label, ": ", client.usage->cached_tokens, " of ",
                                  client.usage->prompt_tokens, " tokens found cached"));
  }
  return faults;
}

Harness::Harness(const HarnessOptions& the_options)
    : options(the_options),
      blocks(2 * the_options.n_blocks, 1, the_options.forms.value_or(kv::FormPolicy{})),
      executor(the_options.executor, blocks, clock) {
  if (options.profile.has_value()) {
    plan_solver = std::make_unique<PlanSolver>(*options.profile);
    planner = std::make_unique<Planner>(*plan_solver, options.planner);
  }
  auto created = Scheduler::Create(
      {executor, blocks, geometry(), TestTokenizer(), clock, observer, planner.get()}, options.scheduler);
  SPILLWAY_CHECK_MSG(created.ok(), created.status().ToString().c_str());
  scheduler = std::move(created).value();
}

kv::Geometry Harness::geometry() const {
  kv::Geometry geometry;
  geometry.n_layers = options.executor.n_layers;
  geometry.n_kv_heads = 1;
  geometry.d_head = 8;
  geometry.d = 8;
  geometry.block_tokens = options.executor.block_tokens;
  return geometry;
}

absl::Status Harness::Submit(Client& client) {
  Request request = client.request;
  request.arrival_ns = clock.NowNs();
  return scheduler->Submit(std::move(request), client.stream);
}

std::unique_ptr<Client> Harness::MustSubmit(Request request) {
  auto client = std::make_unique<Client>(std::move(request));
  const absl::Status status = Submit(*client);
  SPILLWAY_CHECK_MSG(status.ok(), status.ToString().c_str());
  return client;
}

void Harness::RunAll(absl::Span<Client* const> clients, int64_t max_steps) {
  while (max_steps-- > 0 && scheduler->RunOnce()) {
    for (Client* client : clients) client->Read();
  }
  for (Client* client : clients) client->Read();
}

std::vector<text::TokenId> Prompt(int32_t n_tokens, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<text::TokenId> prompt;
  for (int32_t i = 0; i < n_tokens; ++i) {
    prompt.push_back(kFirstLetter + static_cast<text::TokenId>(random() % (kVocabSize - kFirstLetter)));
  }
  return prompt;
}

Request MakeRequest(std::vector<text::TokenId> prompt, int32_t max_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.sampling.temperature = 0;
  return request;
}

}  // namespace spillway::scheduler
