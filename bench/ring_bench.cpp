// SPDX-License-Identifier: BSD-3-Clause
//
// Attention over ranks, which are threads here: counted work and its balance, bytes against the formula, messages that
// are hidden behind the work (with a timeline), and the constants of the model in docs/distributed.md.
//   ring_bench [--trace FILE]   writes the timeline as JSON for chrome://tracing or ui.perfetto.dev
// It fails where a count misses its bound; times are only printed. Other arguments are ignored.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "heed/distributed.hpp"

namespace {

using namespace heed::distributed;
using heed::index_t;
using clock_type = std::chrono::steady_clock;
using seconds = std::chrono::duration<double>;

int failures = 0;
void expect(bool holds, const char* what) {
  if (!holds) ++failures, std::printf("FAILED: %s\n", what);
}

// What a rank did from one time to another, in seconds from the start
struct event {
  index_t rank;
  char kind;  // c: compute, w: wait, m: message that comes in
  double from, to;
};

// A link that takes latency + bytes / bandwidth for each message, on top of threads; it counts and takes notes.
struct link_model {
  double latency = 0, bandwidth = 1e30;  // seconds, bytes per second
};
class linked_network {
 public:
  struct request {
    thread_group::network::request inner;
    clock_type::time_point begun, due;
    bool receives = false;
  };

  linked_network(thread_group::network net, const link_model& link, clock_type::time_point zero)
      : net_(net), link_(link), zero_(zero) {}

  index_t rank() const { return net_.rank(); }
  index_t size() const { return net_.size(); }
  request start_send(index_t to, int channel, std::span<const std::byte> bytes) {
    bytes_sent += static_cast<double>(bytes.size());
    return started(net_.start_send(to, channel, bytes), bytes.size(), false);
  }
  request start_receive(index_t from, int channel, std::span<std::byte> bytes) {
    return started(net_.start_receive(from, channel, bytes), bytes.size(), true);
  }
  bool wait(request& r, std::chrono::milliseconds timeout) {
    const auto begin = end_of_work();
    bool done = net_.wait(r.inner, timeout);
    if (done && timeout.count() > 0) std::this_thread::sleep_until(r.due);
    done = done && clock_type::now() >= r.due;
    working_since_ = clock_type::now();
    if (timeout.count() > 0) note('w', begin, working_since_);
    if (done && r.receives) note('m', r.begun, r.due);
    return done;
  }
  bool cancel(request& r) { return net_.cancel(r.inner); }
  bool all_gather(std::span<const std::byte> mine, std::span<std::byte> all, std::chrono::milliseconds timeout) {
    if (gathers_++ > 1) end_of_work();  // the first two are the agreement
    const bool done = net_.all_gather(mine, all, timeout);
    working_since_ = clock_type::now();
    return done;
  }
  void abandon(const char* text) { net_.abandon(text); }

  std::vector<event> events;
  double bytes_sent = 0;

 private:
  request started(thread_group::network::request inner, std::size_t bytes, bool receives) {
    working_since_ = end_of_work();
    const seconds time(link_.latency + static_cast<double>(bytes) / link_.bandwidth);
    return {std::move(inner), working_since_, working_since_ + std::chrono::duration_cast<clock_type::duration>(time),
            receives};
  }
  clock_type::time_point end_of_work() {
    const auto now = clock_type::now();
    note('c', working_since_, now);
    return now;
  }
  void note(char kind, clock_type::time_point from, clock_type::time_point to) {
    if (to > from) events.push_back({rank(), kind, seconds(from - zero_).count(), seconds(to - zero_).count()});
  }

  thread_group::network net_;
  link_model link_;
  clock_type::time_point zero_, working_since_;
  int gathers_ = 0;
};
static_assert(network<linked_network>);

std::vector<float> numbers(index_t count) {
  std::vector<float> x(static_cast<std::size_t>(count));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  return x;
}

struct shape {
  index_t tokens = 8192, heads = 2, kv_heads = 1, dim = 64;
};
struct result {
  std::vector<event> events;
  std::vector<double> bytes, seconds_of_rank;
};

// softmax::forward, causal, over ranks
result run(const shape& s, index_t ranks, cut how, const link_model& link) {
  result out;
  out.bytes.resize(static_cast<std::size_t>(ranks)), out.seconds_of_rank.resize(out.bytes.size());
  std::mutex lock;
  thread_group group(ranks);
  const auto zero = clock_type::now();
  group.run([&](thread_group::network net) {
    const auto parts = tokens_of(how, s.tokens, ranks, net.rank());
    const index_t n = parts[0].count + parts[1].count;
    std::vector<float> q = numbers(s.heads * n * s.dim), k = numbers(s.kv_heads * n * s.dim), v = k, o = q;
    std::byte here{};
    std::vector<std::byte> all(static_cast<std::size_t>(ranks));
    net.all_gather({&here, 1}, all, std::chrono::minutes(1));  // all begin together
    linked_network linked(net, link, zero);
    const auto begin = clock_type::now();
    softmax::forward(linked, heed::bhsd(q.data(), 1, s.heads, n, s.dim), heed::bhsd(k.data(), 1, s.kv_heads, n, s.dim),
                     heed::bhsd(v.data(), 1, s.kv_heads, n, s.dim), heed::bhsd(o.data(), 1, s.heads, n, s.dim),
                     {.mask = heed::causal()}, {.cut = how});
    const std::lock_guard<std::mutex> locked(lock);
    const auto r = static_cast<std::size_t>(net.rank());
    out.seconds_of_rank[r] = seconds(clock_type::now() - begin).count();
    out.bytes[r] = linked.bytes_sent;
    out.events.insert(out.events.end(), linked.events.begin(), linked.events.end());
  });
  return out;
}

const char* name_of(cut how) { return how == cut::zigzag ? "zigzag" : "contiguous"; }

void count_work() {
  std::puts("Counted work, causal: pairs of the busiest rank over the mean of all, and over 1 / R of one rank's");
  std::puts("  ranks    tokens   contiguous       zigzag     of a share   messages   keys sent by a rank");
  for (const auto& [ranks, tokens] : std::vector<std::pair<index_t, index_t>>{
           {2, 8192}, {4, 8192}, {8, 8192}, {16, 16384}, {64, 65536}, {64, 65000}}) {
    double worst[2] = {}, sum = 0, one = count_ring(cut::contiguous, tokens, 1, 0, heed::causal()).pairs;
    ring_counts last;
    for (const cut how : {cut::contiguous, cut::zigzag}) {
      sum = 0;
      for (index_t r = 0; r < ranks; ++r) {
        last = count_ring(how, tokens, ranks, r, heed::causal());
        sum += last.pairs;
        worst[how == cut::zigzag] = std::max(worst[how == cut::zigzag], last.pairs);
      }
      expect(std::abs(sum - one) < 0.5, "the ranks' pairs are those of the whole");
    }
    const double mean = sum / static_cast<double>(ranks);
    std::printf("  %5td  %8td   %10.4f   %10.4f   %12.4f   %8td   %19td\n", ranks, tokens, worst[0] / mean,
                worst[1] / mean, worst[1] * static_cast<double>(ranks) / one, last.messages, last.keys_sent);
    expect(worst[1] / mean <= 1.05, "balance of causal zig-zag is at most 1.05");
    if (ranks == 4) expect(worst[1] * 4 / one <= 1.10, "4 ranks: the busiest is within 10 % of a quarter");
  }
}

void count_bytes() {
  const shape s{.tokens = 2048};
  std::puts("\nBytes of keys and values that a rank sends, counted in the network, and by the formula");
  for (const cut how : {cut::contiguous, cut::zigzag})
    for (const index_t ranks : {2, 3, 4, 5}) {
      const result r = run(s, ranks, how, {});
      for (index_t rank = 0; rank < ranks; ++rank) {
        const double expected = static_cast<double>(count_ring(how, s.tokens, ranks, rank, heed::causal()).keys_sent *
                                                    s.kv_heads * 2 * s.dim * 4);
        const double counted = r.bytes[static_cast<std::size_t>(rank)];
        expect(std::abs(counted - expected) < 0.5, "bytes are those of the formula");
        if (ranks == 4)
          std::printf("  %-10s rank %td of 4: %9.0f counted, %9.0f by the formula\n", name_of(how), rank, counted,
                      expected);
      }
    }
}

double total(const result& r, index_t rank, char kind) {
  double sum = 0;
  for (const event& e : r.events)
    if (e.rank == rank && e.kind == kind) sum += e.to - e.from;
  return sum;
}

void draw(const result& r, index_t ranks) {
  double begin = 1e30, end = 0;
  for (const event& e : r.events) begin = std::min(begin, e.from), end = std::max(end, e.to);
  constexpr int columns = 100;
  for (index_t rank = 0; rank < ranks; ++rank)
    for (const bool messages : {false, true}) {
      std::string line(columns, ' ');
      for (const event& e : r.events)
        if (e.rank == rank && (e.kind == 'm') == messages)
          for (int c = 0; c < columns; ++c) {
            const double at = begin + (end - begin) * (c + 0.5) / columns;
            if (at >= e.from && at < e.to)
              line[static_cast<std::size_t>(c)] = e.kind == 'c' ? '#' : e.kind == 'w' ? '.' : '=';
          }
      std::printf("  %s %s\n", messages ? "   net " : ("rank " + std::to_string(rank) + " ").c_str(), line.c_str());
    }
  std::printf("  %.1f ms; # computes, . waits, = keys and values come in\n", 1e3 * (end - begin));
}

void write_trace(const char* file, const result& r) {
  std::FILE* const out = std::fopen(file, "w");
  if (out == nullptr) {
    std::printf("cannot write %s\n", file);
    return;
  }
  std::fputs("{\"traceEvents\": [\n", out);
  for (std::size_t i = 0; i < r.events.size(); ++i) {
    const event& e = r.events[i];
    std::fprintf(out, "{\"name\": \"%s\", \"ph\": \"X\", \"pid\": %td, \"tid\": %d, \"ts\": %.1f, \"dur\": %.1f}%s\n",
                 e.kind == 'c'   ? "compute"
                 : e.kind == 'w' ? "wait"
                                 : "message",
                 e.rank, e.kind == 'm' ? 1 : 0, 1e6 * e.from, 1e6 * (e.to - e.from),
                 i + 1 < r.events.size() ? "," : "");
  }
  std::fputs("]}\n", out);
  std::fclose(out);
}

// A step computes as long as a message takes: all but the waiting for each other should be hidden.
void show_overlap(const char* trace) {
  for (const auto& [ranks, tokens] : std::vector<std::pair<index_t, index_t>>{{2, 8192}, {4, 8192}}) {
    const shape s{.tokens = tokens};
    const double block = static_cast<double>(tokens / ranks * s.kv_heads * 2 * s.dim * 4);
    run(s, ranks, cut::zigzag, {});  // warms up
    const result fast = run(s, ranks, cut::zigzag, {});
    const double step = total(fast, 0, 'c') / static_cast<double>(ranks);
    const link_model link{50e-6, block / (0.6 * step)};  // a message takes 0.6 of a step
    const result r = run(s, ranks, cut::zigzag, link);
    std::printf("\nOverlap: %td ranks, %td tokens, messages of %.1f MB at %.1f MB/s\n", ranks, tokens, block / 1e6,
                link.bandwidth / 1e6);
    for (index_t rank = 0; rank < ranks; ++rank) {
      const double messages = total(r, rank, 'm'), waits = total(r, rank, 'w');
      std::printf("  rank %td computes %.1f ms, messages take %.1f ms, waits %.1f ms\n", rank,
                  1e3 * total(r, rank, 'c'), 1e3 * messages, 1e3 * waits);
    }
    draw(r, ranks);
    const result slow = run(s, ranks, cut::zigzag, {50e-6, block / (3 * step)});
    std::printf("  with a link of a fifth of that, where a message takes 3 steps: rank 0 waits %.1f ms of %.1f\n",
                1e3 * total(slow, 0, 'w'), 1e3 * slow.seconds_of_rank[0]);
    if (trace != nullptr) write_trace(trace, r);
  }
}

// The best time of a few runs of f
template <class F> double time_of(const F& f) {
  double best = 1e30;
  for (int i = 0; i < 7; ++i) {
    const auto begin = clock_type::now();
    f();
    best = std::min(best, seconds(clock_type::now() - begin).count());
  }
  return best;
}

// One rank and as many as there are cores, by turns: medians of the slowest rank's time
void measure_scaling() {
  const auto cores = static_cast<index_t>(std::max(1u, std::thread::hardware_concurrency()));
  const shape s{.heads = 8, .kv_heads = 2};
  std::printf("\nTime of softmax::forward, causal zig-zag, %td tokens, %td heads on %td, on %td cores\n", s.tokens,
              s.heads, s.kv_heads, cores);
  std::vector<index_t> counts;
  for (index_t ranks = 1; ranks <= std::min<index_t>(cores, 16); ranks *= 2) counts.push_back(ranks);
  std::vector<std::vector<double>> times(counts.size());
  for (int turn = 0; turn < 9; ++turn)
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const result r = run(s, counts[i], cut::zigzag, {});
      times[i].push_back(*std::max_element(r.seconds_of_rank.begin(), r.seconds_of_rank.end()));
    }
  for (std::size_t i = 0; i < counts.size(); ++i) {
    std::sort(times[i].begin(), times[i].end());
    const double time = times[i][times[i].size() / 2], one = times[0][times[0].size() / 2];
    std::printf("  %2td ranks: %7.1f ms, %.3f of one rank's time over their number\n", counts[i], 1e3 * time,
                time * static_cast<double>(counts[i]) / one);
  }
}

void measure_constants() {
  std::puts("\nConstants of the model, one thread, float, D = E = 64, 8 query and 2 key/value heads");
  constexpr index_t heads = 8, kv_heads = 2, dim = 64;
  for (const index_t n : {128, 256, 512, 1024}) {
    std::vector<float> q = numbers(heads * n * dim), k = numbers(kv_heads * n * dim), v = k, o = q, part = q,
                       lse(static_cast<std::size_t>(heads * n)), part_lse = lse;
    const auto at = [&](std::vector<float>& x, index_t h) { return heed::bhsd(x.data(), 1, h, n, dim); };
    const auto lse_of = [&](std::vector<float>& x) { return heed::contiguous(x.data(), {1, heads, n}); };
    const double flops = 4.0 * dim * heads * static_cast<double>(n * n);
    const double forward = time_of([&] {
      heed::softmax::forward(at(q, heads), at(k, kv_heads), at(v, kv_heads), at(o, heads), {.lse = lse_of(lse)});
    });
    heed::softmax::forward(at(q, heads), at(k, kv_heads), at(v, kv_heads), at(part, heads), {.lse = lse_of(part_lse)});
    const double merge =
        time_of([&] { heed::softmax::merge(at(o, heads), lse_of(lse), at(part, heads), lse_of(part_lse)); });
    std::printf("  %4td tokens a rank: %6.1f GFLOP/s dense, a step %7.0f us, merge %5.0f us (%.2f ns a number)\n", n,
                flops / forward * 1e-9, 1e6 * forward, 1e6 * merge, 1e9 * merge / static_cast<double>(heads * n * dim));
  }
  thread_group one(1);
  auto net = one.rank(0);
  std::vector<float> tiny(64);
  const auto row = heed::bhsd(tiny.data(), 1, 1, 1, 64);
  std::vector<float> out(64);
  const double whole = time_of([&] { softmax::forward(net, row, row, row, heed::bhsd(out.data(), 1, 1, 1, 64)); });
  std::printf("  a call of one token on one rank: %.1f us\n", 1e6 * whole);
}

}  // namespace

int main(int argc, char** argv) {
  const char* trace = nullptr;
  for (int i = 1; i + 1 < argc; ++i)
    if (std::strcmp(argv[i], "--trace") == 0) trace = argv[i + 1];
  count_work();
  count_bytes();
  show_overlap(trace);
  measure_scaling();
  measure_constants();
  std::printf("\n%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
