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

class Engine {
  public:
    // Start `num_threads` threads over `records`. Throws std::system_error where the system refuses them.
    Engine(std::shared_ptr<const Records> records, int num_threads, bool scaled_decode);

    // Give up what is queued, wait for the samples that are being made, and end the threads. In a forked child, which
    // has none of them, all is left as it is.
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Queue a batch behind those before it; its images must stay where they are until it is done or cancelled.
    // Throws std::logic_error in a forked child.
    void submit(std::shared_ptr<BatchJob> job);

    // Give up every batch that is not done; when this returns, no thread touches their images any more.
    void cancel();

  private:
    // On the heap, so that a forked child can leave it alone: a thread that is gone can't be joined, and a condition
    // variable that it waited on can't be destroyed.
    struct Shared {
        std::shared_ptr<const Records> records;
        bool scaled_decode;
        std::mutex mutex;
        std::condition_variable work;
        std::deque<std::shared_ptr<BatchJob>> queue;  // in order; the first ones may be claimed to the last row
        bool stopping = false;
        std::vector<std::thread> threads;
    };

    class Slot;

    bool is_ours() const;
    void stop();
    static void run_thread(Shared& shared);
    static bool wait_for_work(Shared& shared);  // false when the threads are to end
    static void claim_rows(Shared& shared, Slot& slot);

    Shared* const shared_;
    std::vector<std::shared_ptr<BatchJob>> submitted_;  // all that may not be done
    const pid_t owner_;
};

}  // namespace fastvit
