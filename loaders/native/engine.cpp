#include "engine.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "sampler.hpp"

namespace fastvit {

namespace {

// Small samples are handed out several at a time, or threads would mostly fight over the counter.
constexpr std::size_t kBytesPerClaim = 1 << 15;

std::size_t bytes_per_row(const CropRule& rule) {
    return 3 * static_cast<std::size_t>(rule.resolution) * static_cast<std::size_t>(rule.resolution);
}

// Signals are for the threads of the program, such as Python's main thread.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &previous_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  private:
    sigset_t previous_;
};

// What a thread keeps from sample to sample.
struct ThreadState {
    Sampler sampler;
    std::vector<std::uint8_t> file;
};

void make_row(const Records& records, ThreadState& thread_state, BatchJob& job, std::size_t row) {
    const auto index = static_cast<std::size_t>(job.indices()[row]);
    const auto fail = [&](bool foreign, const char* reason) {
        job.fail({static_cast<std::int64_t>(row), foreign, reason});
    };
    try {
        thread_state.sampler.load(records.read(index, thread_state.file), index, job.rule(), job.row(row));
    } catch (const ForeignImageError& error) {
        fail(true, error.what());
    } catch (const std::exception& error) {
        fail(false, error.what());
    }
}

}  // namespace

BatchJob::BatchJob(std::vector<std::int64_t> indices, const CropRule& rule, std::uint8_t* images)
    : indices_(std::move(indices)),
      rule_(rule),
      images_(images),
      rows_per_claim_(std::clamp<std::size_t>(kBytesPerClaim / bytes_per_row(rule), 1, 16)),
      rows_left_(indices_.size()) {}

bool BatchJob::wait_for(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    return done_.wait_for(lock, timeout, [&] { return is_done(); });
}

std::vector<Failure> BatchJob::failures() const {
    const std::lock_guard lock(mutex_);
    std::vector<Failure> sorted = failures_;
    std::sort(sorted.begin(), sorted.end(), [](const Failure& a, const Failure& b) { return a.row < b.row; });
    return sorted;
}

bool BatchJob::claim(std::size_t& begin, std::size_t& end) {
    begin = next_row_.fetch_add(rows_per_claim_, std::memory_order_relaxed);
    end = std::min(begin + rows_per_claim_, indices_.size());
    return begin < indices_.size();
}

void BatchJob::finish(std::size_t num_rows) {
    if (rows_left_.fetch_sub(num_rows, std::memory_order_acq_rel) > num_rows) return;
    const std::lock_guard lock(mutex_);  // or the waiting thread could look just before and sleep just after
    done_.notify_all();
}

void BatchJob::fail(Failure failure) {
    const std::lock_guard lock(mutex_);
    failures_.push_back(std::move(failure));
}

std::uint8_t* BatchJob::row(std::size_t number) const { return images_ + number * bytes_per_row(rule_); }

void BatchJob::give_up() {
    const std::size_t claimed = next_row_.exchange(indices_.size(), std::memory_order_relaxed);
    if (claimed < indices_.size()) finish(indices_.size() - claimed);
}

Engine::Engine(std::shared_ptr<const Records> records, int num_threads, bool scaled_decode)
    : shared_(new Shared{}), owner_(getpid()) {
    shared_->records = std::move(records);
    shared_->scaled_decode = scaled_decode;
    const SignalsBlocked blocked;
    try {
        for (int number = 0; number < num_threads; ++number) shared_->threads.emplace_back([this] { run_thread(*shared_); });
    } catch (...) {
        stop();
        throw;
    }
}

Engine::~Engine() {
    if (is_ours()) stop();
}

void Engine::stop() {
    cancel();
    {
        const std::lock_guard lock(shared_->mutex);
        shared_->stopping = true;
    }
    shared_->work.notify_all();
    for (std::thread& thread : shared_->threads) thread.join();
    delete shared_;
}

void Engine::submit(std::shared_ptr<BatchJob> job) {
    if (!is_ours())
        throw std::logic_error("this loader was built before the process was forked; build it in the process that uses it");
    std::erase_if(submitted_, [](const auto& earlier) { return earlier->is_done(); });
    for (const std::int64_t index : job->indices()) shared_->records->prefetch(static_cast<std::size_t>(index));
    submitted_.push_back(job);
    {
        const std::lock_guard lock(shared_->mutex);
        shared_->queue.push_back(std::move(job));
    }
    shared_->work.notify_all();
}

void Engine::cancel() {
    if (!is_ours()) return;
    for (const auto& job : submitted_) job->give_up();
    for (const auto& job : submitted_)
        while (!job->wait_for(std::chrono::seconds(1))) continue;
    submitted_.clear();
}

bool Engine::is_ours() const { return getpid() == owner_; }

void Engine::run_thread(Shared& shared) {
    ThreadState thread_state{Sampler(shared.scaled_decode), {}};
    while (const auto job = next_job(shared)) {
        for (std::size_t begin, end; job->claim(begin, end); job->finish(end - begin))
            for (std::size_t row = begin; row < end; ++row) make_row(*shared.records, thread_state, *job, row);
        const std::lock_guard lock(shared.mutex);
        if (!shared.queue.empty() && shared.queue.front() == job) shared.queue.pop_front();
    }
}

std::shared_ptr<BatchJob> Engine::next_job(Shared& shared) {
    std::unique_lock lock(shared.mutex);
    shared.work.wait(lock, [&] { return shared.stopping || !shared.queue.empty(); });
    return shared.stopping ? nullptr : shared.queue.front();
}

}  // namespace fastvit
