#include "engine/engine.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/sampler.hpp"
#include "jpeg/image_error.hpp"
#include "records/mapped_file.hpp"

namespace fastvit {

namespace {

// Small samples are handed out several at a time, or threads would mostly fight over the counter.
constexpr std::size_t kBytesPerClaim = 1 << 15;

// How long a read may take that somebody waits for who wants to end.
constexpr std::chrono::seconds kPatience{3};

std::size_t bytes_per_row(const CropRule& rule) {
    return 3 * static_cast<std::size_t>(rule.resolution) * static_cast<std::size_t>(rule.resolution);
}

// Signals are for the threads of the program, such as Python's main thread; but SIGBUS comes to the one that reads.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        sigdelset(&all, SIGBUS);
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
    : shared_(std::make_shared<Shared>()), owner_(getpid()),
      seen_(static_cast<std::size_t>(num_threads), Seen{0, std::chrono::steady_clock::now()}) {
    shared_->records = std::move(records);
    shared_->scaled_decode = scaled_decode;
    shared_->statuses = std::vector<Status>(static_cast<std::size_t>(num_threads));
    const SignalsBlocked blocked;
    try {
        for (Status& status : shared_->statuses)
            shared_->threads.emplace_back([&shared = *shared_, &status] { run_thread(shared, status); });
    } catch (...) {
        close();
        throw;
    }
}

Engine::~Engine() {
    if (is_ours())
        close();
    else
        leave_alone();
}

void Engine::submit(std::shared_ptr<BatchJob> job) {
    if (!is_ours())
        throw std::logic_error("this loader was built before the process was forked; build it in the process that uses it");
    // The disk is read while the batches in front of this one are made.
    const Records& records = *shared_->records;
    for (const std::int64_t sample : job->samples()) records.prefetch(static_cast<std::size_t>(sample) % records.size());
    const std::lock_guard lock(mutex_);
    if (is_closed_) throw std::logic_error("the engine is closed");
    std::erase_if(submitted_, [](const auto& earlier) { return earlier->is_done(); });
    submitted_.push_back(job);
    {
        const std::lock_guard queue_lock(shared_->mutex);
        shared_->queue.push_back(std::move(job));
    }
    shared_->work.notify_all();
}

std::vector<std::size_t> Engine::cancel() {
    if (!is_ours() || give_up_all()) return {};
    const std::lock_guard ending(ending_);
    return abandon();
}

std::vector<std::size_t> Engine::close() {
    if (!is_ours()) return {};
    const std::lock_guard ending(ending_);
    if (shared_->threads.empty()) return {};  // by an earlier call
    {
        const std::lock_guard lock(mutex_);
        is_closed_ = true;
    }
    if (!give_up_all()) return abandon();
    stop_threads();
    for (std::thread& thread : shared_->threads) thread.join();
    shared_->threads.clear();
    return {};
}

// Slow decoding is no reason to lose patience: it goes from step to step.
bool Engine::give_up_all() {
    std::vector<std::shared_ptr<BatchJob>> jobs;
    {
        const std::lock_guard lock(mutex_);
        jobs = submitted_;
    }
    for (const auto& job : jobs) job->give_up();
    std::uint64_t steps = num_steps();
    auto last_step = std::chrono::steady_clock::now();
    for (const auto& job : jobs) {
        while (!job->wait_for(std::chrono::milliseconds(50))) {
            const auto now = std::chrono::steady_clock::now();
            if (const std::uint64_t found = num_steps(); found != steps) {
                steps = found;
                last_step = now;
            } else if (now - last_step > kPatience) {
                return false;
            }
        }
    }
    return true;
}

void Engine::stop_threads() {
    {
        const std::lock_guard lock(shared_->mutex);
        shared_->stopping = true;
    }
    shared_->work.notify_all();
}

// Whoever calls it holds `ending_`.
std::vector<std::size_t> Engine::abandon() {
    if (shared_->threads.empty()) return {};  // by an earlier call
    std::vector<std::size_t> records;
    for (const RecordAtWork& one : at_work()) records.push_back(one.record);
    {
        const std::lock_guard lock(mutex_);
        is_closed_ = true;
    }
    stop_threads();
    for (std::thread& thread : shared_->threads) thread.detach();
    shared_->threads.clear();
    leave_alone();
    return records;
}

// Never freed: what a thread may come back to, or one that does not exist here has waited on.
void Engine::leave_alone() { new std::shared_ptr<Shared>(shared_); }

std::vector<RecordAtWork> Engine::at_work() {
    std::vector<RecordAtWork> records;
    if (!is_ours()) return records;
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    for (std::size_t number = 0; number < seen_.size(); ++number) {
        const Status& status = shared_->statuses[number];
        Seen& seen = seen_[number];
        const std::uint64_t steps = status.num_steps.load(std::memory_order_relaxed);
        const std::int64_t sample = status.samples[steps % 2].load(std::memory_order_relaxed);
        if (seen.num_steps != steps) seen = {steps, now};
        if (sample < 0) continue;
        const auto record = static_cast<std::size_t>(sample) % shared_->records->size();
        records.push_back({record, std::chrono::duration<double>(now - seen.since).count()});
    }
    return records;
}

std::uint64_t Engine::num_steps() const {
    std::uint64_t sum = 0;
    for (const Status& status : shared_->statuses) sum += status.num_steps.load(std::memory_order_relaxed);
    return sum;
}

bool Engine::is_ours() const { return getpid() == owner_; }

// A sample in the making, of rows that were claimed.
class Engine::Slot {
  public:
    // `sample` is where it writes down what it is at.
    Slot(const Shared& shared, std::atomic<std::int64_t>& sample)
        : records_(*shared.records), sample_(sample), sampler_(shared.scaled_decode) {}

    void pair_with(Slot& other) { sampler_.pair_with(other.sampler_); }
    bool is_idle() const { return !job_; }

    // Take rows of the job; false when none are left.
    bool claim(const std::shared_ptr<BatchJob>& job) {
        if (!job->claim(begin_, end_)) return false;
        job_ = job;
        row_ = begin_;
        is_begun_ = false;
        mapped_file_ = nullptr;
        return true;
    }

    // Make some more of a sample.
    void advance() {
        try {
            is_begun_ = is_begun_ ? sampler_.advance() : begin();
        } catch (const ForeignImageError& error) {
            fail(is_whole(), error.what());
        } catch (const std::exception& error) {
            fail(false, error.what());
        }
        if (is_begun_ || ++row_ < end_) return;
        check_rows();
        job_->finish(end_ - begin_);
        job_ = nullptr;
    }

  private:
    bool begin() {
        const std::int64_t sample = job_->samples()[row_];
        sample_.store(sample, std::memory_order_relaxed);
        const auto number = static_cast<std::size_t>(sample);
        const Record record = records_.read(number % records_.size(), file_);
        if (record.file != mapped_file_) {
            check_rows();
            mapped_file_ = record.file;
            first_of_file_ = row_;
        }
        return sampler_.begin(record, number, job_->rule(), job_->row(row_));
    }

    // Whether the bytes that were read are those of the records.
    bool is_whole() const { return !mapped_file_ || mapped_file_->is_whole(); }

    // The rows that came from one file; small ones together, for each of which it would be a hundredth of the work.
    void check_rows() {
        if (is_whole()) return;
        for (std::size_t row = first_of_file_; row < row_; ++row)
            job_->fail({static_cast<std::int64_t>(row), false, MappedFile::kCutShort});
    }

    // Zeros where bytes are missing may look like any damage.
    void fail(bool foreign, const char* reason) {
        job_->fail({static_cast<std::int64_t>(row_), foreign, is_whole() ? reason : MappedFile::kCutShort});
        is_begun_ = false;
    }

    const Records& records_;
    std::atomic<std::int64_t>& sample_;
    Sampler sampler_;
    std::vector<std::uint8_t> file_;
    const MappedFile* mapped_file_ = nullptr;
    std::size_t first_of_file_ = 0;
    std::shared_ptr<BatchJob> job_;
    std::size_t begin_, end_, row_;
    bool is_begun_;
};

void Engine::run_thread(Shared& shared, Status& status) {
    Slot slots[] = {{shared, status.samples[0]}, {shared, status.samples[1]}};
    slots[0].pair_with(slots[1]);
    for (std::uint64_t round = 1;; ++round) {
        if (slots[0].is_idle() && slots[1].is_idle()) {
            for (auto& sample : status.samples) sample.store(-1, std::memory_order_relaxed);
            if (!wait_for_work(shared)) return;
        }
        for (std::size_t number = 0; number < 2; ++number) {
            Slot& slot = slots[number];
            if (slot.is_idle()) claim_rows(shared, slot);
            if (slot.is_idle()) continue;
            status.num_steps.store(2 * round + number, std::memory_order_relaxed);
            slot.advance();
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
