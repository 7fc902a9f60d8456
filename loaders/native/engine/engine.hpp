// The loading threads: batches go in as requests, samples are made by whichever thread is free.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/placement.hpp"
#include "records/records.hpp"

namespace fastvit {

// A sample that could not be made.
struct Failure {
    std::int64_t row;
    bool foreign;  // an image of a format that is decoded elsewhere
    std::string reason;
};

// A batch in the making: row i of `images`, uint8 [n, resolution, resolution, 3], becomes the crop that is drawn for
// sample samples[i], which is record samples[i] % (number of records): see BatchPlan in loaders/order.py.
class BatchJob {
  public:
    BatchJob(std::vector<std::int64_t> samples, const CropRule& rule, std::uint8_t* images);

    const std::vector<std::int64_t>& samples() const { return samples_; }
    const CropRule& rule() const { return rule_; }

    // Wait until every row is made or given up, at most `timeout`; tells whether it is.
    bool wait_for(std::chrono::milliseconds timeout);

    bool is_done() const { return rows_left_.load(std::memory_order_acquire) == 0; }

    // Sorted by row.
    std::vector<Failure> failures() const;

    // The rest is for the threads.

    // Take the next rows to make, [begin, end); false when none are left to take.
    bool claim(std::size_t& begin, std::size_t& end);
    void finish(std::size_t num_rows);
    void fail(Failure failure);
    std::uint8_t* row(std::size_t number) const;

    // Count the rows that nobody has claimed as finished.
    void give_up();

  private:
    const std::vector<std::int64_t> samples_;
    const CropRule rule_;
    std::uint8_t* const images_;
    const std::size_t rows_per_claim_;
    std::atomic<std::size_t> next_row_{0};
    std::atomic<std::size_t> rows_left_;
    mutable std::mutex mutex_;
    std::condition_variable done_;
    std::vector<Failure> failures_;
};

// A record that a thread makes a sample of.
struct RecordAtWork {
    std::size_t record;
    double seconds;  // for how long, as far as that was looked at
};

// May be used by several threads at once.
class Engine {
  public:
    // Start `num_threads` threads over `records`. Throws std::system_error where the system refuses them.
    Engine(std::shared_ptr<const Records> records, int num_threads, bool scaled_decode);

    // As `close`. In a forked child, which has none of the threads, all is left as it is.
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Queue a batch behind those before it; its images must stay where they are until it is done. Throws
    // std::logic_error in a forked child, and where the engine is closed.
    void submit(std::shared_ptr<BatchJob> job);

    // Give up every batch that was submitted and is not done; when this returns, no thread touches their images any
    // more. Where a read does not come back for seconds, as those of a dead network file system, the engine is closed,
    // its threads are abandoned, and the records are returned that they are at: these threads may still write into the
    // images of batches that are not done.
    std::vector<std::size_t> cancel();

    // Cancel, and end the threads. A second call does nothing.
    std::vector<std::size_t> close();

    // What the threads are at: a record that stays there from call to call is one that cannot be read.
    std::vector<RecordAtWork> at_work();

  private:
    // What one thread is at. Only it writes.
    struct alignas(64) Status {
        std::atomic<std::int64_t> samples[2]{-1, -1};  // of its two slots; -1 while there is nothing to do
        std::atomic<std::uint64_t> num_steps{0};       // even for a step of the first slot, odd for one of the second
    };

    // A status that was seen, and when for the first time.
    struct Seen {
        std::uint64_t num_steps;
        std::chrono::steady_clock::time_point since;
    };

    // Apart, so that it can be left alone by a forked child and to abandoned threads: a thread that is gone can't be
    // joined, and a condition variable that it waited on can't be destroyed.
    struct Shared {
        std::shared_ptr<const Records> records;
        bool scaled_decode;
        std::mutex mutex;
        std::condition_variable work;
        std::deque<std::shared_ptr<BatchJob>> queue;  // in order; the first ones may be claimed to the last row
        bool stopping = false;
        std::vector<Status> statuses;  // of the threads
        std::vector<std::thread> threads;
    };

    class Slot;

    bool is_ours() const;
    bool give_up_all();  // false where a read does not come back
    void stop_threads();
    std::vector<std::size_t> abandon();
    void leave_alone();
    std::uint64_t num_steps() const;
    static void run_thread(Shared& shared, Status& status);
    static bool wait_for_work(Shared& shared);  // false when the threads are to end
    static void claim_rows(Shared& shared, Slot& slot);

    const std::shared_ptr<Shared> shared_;
    const pid_t owner_;
    std::mutex mutex_;  // of what follows
    std::vector<std::shared_ptr<BatchJob>> submitted_;  // all that may not be done
    std::vector<Seen> seen_;
    bool is_closed_ = false;
    std::mutex ending_;  // held by the one that ends the threads
};

}  // namespace fastvit
