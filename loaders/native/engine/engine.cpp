#include "engine/engine.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/sampler.hpp"

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

}  // namespace

BatchJob::BatchJob(std::vector<std::int64_t> samples, const CropRule& rule, std::uint8_t* images)
    : samples_(std::move(samples)),
      rule_(rule),
      images_(images),
      rows_per_claim_(std::clamp<std::size_t>(kBytesPerClaim / bytes_per_row(rule), 1, 16)),
      rows_left_(samples_.size()) {}

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

// Relaxed, because the counter guards nothing: rows go to threads by the queue's mutex and come back by `rows_left_`.
bool BatchJob::claim(std::size_t& begin, std::size_t& end) {
    begin = next_row_.fetch_add(rows_per_claim_, std::memory_order_relaxed);
    end = std::min(begin + rows_per_claim_, samples_.size());
    return begin < samples_.size();
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
    const std::size_t claimed = next_row_.exchange(samples_.size(), std::memory_order_relaxed);
    if (claimed < samples_.size()) finish(samples_.size() - claimed);
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
    // The disk is read while the batches in front of this one are made.
    const Records& records = *shared_->records;
    for (const std::int64_t sample : job->samples()) records.prefetch(static_cast<std::size_t>(sample) % records.size());
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

// A sample in the making, of rows that were claimed.
class Engine::Slot {
  public:
    explicit Slot(const Shared& shared) : records_(*shared.records), sampler_(shared.scaled_decode) {}

    void pair_with(Slot& other) { sampler_.pair_with(other.sampler_); }
    bool is_idle() const { return !job_; }

    // Take rows of the job; false when none are left.
    bool claim(const std::shared_ptr<BatchJob>& job) {
        if (!job->claim(begin_, end_)) return false;
        job_ = job;
        row_ = begin_;
        is_begun_ = false;
        return true;
    }

    // Make some more of a sample.
    void advance() {
        const auto fail = [&](bool foreign, const char* reason) {
            job_->fail({static_cast<std::int64_t>(row_), foreign, reason});
            is_begun_ = false;
        };
        try {
            is_begun_ = is_begun_ ? sampler_.advance() : begin();
        } catch (const ForeignImageError& error) {
            fail(true, error.what());
        } catch (const std::exception& error) {
            fail(false, error.what());
        }
        if (is_begun_ || ++row_ < end_) return;
        job_->finish(end_ - begin_);
        job_ = nullptr;
    }

  private:
    bool begin() {
        const auto sample = static_cast<std::size_t>(job_->samples()[row_]);
        return sampler_.begin(records_.read(sample % records_.size(), file_), sample, job_->rule(), job_->row(row_));
    }

    const Records& records_;
    Sampler sampler_;
    std::vector<std::uint8_t> file_;
    std::shared_ptr<BatchJob> job_;
    std::size_t begin_, end_, row_;
    bool is_begun_;
};

void Engine::run_thread(Shared& shared) {
    Slot one(shared), other(shared);
    one.pair_with(other);
    while (true) {
        if (one.is_idle() && other.is_idle() && !wait_for_work(shared)) return;
        for (Slot* slot : {&one, &other}) {
            if (slot->is_idle()) claim_rows(shared, *slot);
            if (!slot->is_idle()) slot->advance();
        }
    }
}

bool Engine::wait_for_work(Shared& shared) {
    std::unique_lock lock(shared.mutex);
    shared.work.wait(lock, [&] { return shared.stopping || !shared.queue.empty(); });
    return !shared.stopping;
}

void Engine::claim_rows(Shared& shared, Slot& slot) {
    const std::lock_guard lock(shared.mutex);
    while (!shared.queue.empty() && !slot.claim(shared.queue.front())) shared.queue.pop_front();
}

}  // namespace fastvit
