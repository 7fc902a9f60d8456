// The loading threads under ThreadSanitizer: batches submitted, awaited, left behind and cancelled, engines ended at work,
// engines that several threads use and close, reads that do not come back, and encoded batches that several threads make.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/encoded_crops.hpp"
#include "engine/engine.hpp"
#include "jpeg/image_error.hpp"
#include "jpeg_files.hpp"

using namespace fastvit;

namespace {

// Raw images of 40 x 40 pixels and JPEGs of many sizes and kinds, of which some are damaged and some cannot be read.
class Noise final : public Records {
  public:
    Noise() : pixels_(3 * 40 * 40) {
        std::mt19937 random(1);
        for (std::uint8_t& byte : pixels_) byte = static_cast<std::uint8_t>(random());
        for (int number = 0; number < 20; ++number) {
            const JpegKind kind{number % 7 ? 3 : 1, 1 + number % 2, 1 + number % 2, 85, number % 3 ? 0 : 2, number % 5 == 4,
                                false, number % 4 == 1};
            jpegs_.push_back(encode(kind, 20 + 9 * number, 150 - 6 * number, random));
        }
    }
    std::size_t size() const override { return 1000; }
    Record read(std::size_t index, std::vector<std::uint8_t>&) const override {
        if (index % 17 == 16) throw ImageError("it is the 17th");
        if (index % 4 == 0) return {pixels_.data(), pixels_.size(), true, 40, 40};
        const Bytes& jpeg = jpegs_[index % jpegs_.size()];
        return {jpeg.data(), is_damaged(index) ? jpeg.size() / 2 : jpeg.size(), false, 0, 0};
    }
    void prefetch(std::size_t) const override {}

    static bool is_damaged(std::size_t index) { return index % 13 == 12; }

  private:
    Bytes pixels_;
    std::vector<Bytes> jpegs_;
};

bool may_fail(std::int64_t index) { return index % 17 == 16 || Noise::is_damaged(static_cast<std::size_t>(index)); }

// Records whose reads do not come back until they are told to.
class Blocked final : public Records {
  public:
    std::size_t size() const override { return 10; }
    Record read(std::size_t index, std::vector<std::uint8_t>&) const override {
        while (index == 7 && !may_return.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        throw ImageError("it was blocked");
    }
    void prefetch(std::size_t) const override {}

    std::atomic<bool> may_return{false};
};

const CropRule kRule{CropKind::random_resized, 24, 1, 0, {0.08, 1, 0.75, 4.0 / 3}, 1, 0, Interpolation::bilinear};

std::shared_ptr<BatchJob> job_of(std::vector<std::uint8_t>& slot, std::mt19937& random) {
    std::vector<std::int64_t> samples(64);
    for (auto& sample : samples) sample = random() % 3000;  // of 1000 records
    slot.resize(64 * 3 * 24 * 24);
    return std::make_shared<BatchJob>(samples, kRule, slot.data());
}

// What each thread's jobs write to stays until the engine has ended.
void use_from_many_threads(const std::shared_ptr<Noise>& records) {
    std::vector<std::vector<std::uint8_t>> slots(3 * 8);
    Engine engine(records, 3, false);
    std::vector<std::thread> users;
    for (unsigned user = 0; user < 3; ++user)
        users.emplace_back([&, user] {
            std::mt19937 random(user);
            for (unsigned number = 0; number < 8; ++number) {
                const auto job = job_of(slots[8 * user + number], random);
                try {
                    engine.submit(job);
                } catch (const std::logic_error&) {
                    return;  // another one has closed it
                }
                if (number % 3 == 1) engine.cancel();
                if (number % 3 == 2) engine.at_work();
                while (!job->wait_for(std::chrono::milliseconds(100))) continue;
            }
            if (user) engine.close();
        });
    for (std::thread& user : users) user.join();
}

// False where the engine does not tell of the read, or waits for it.
bool leaves_a_blocked_read_behind() {
    const auto records = std::make_shared<Blocked>();
    std::vector<std::uint8_t> slot(2 * 3 * 24 * 24);
    const auto job = std::make_shared<BatchJob>(std::vector<std::int64_t>{3, 17}, kRule, slot.data());
    {
        Engine engine(records, 2, false);
        engine.submit(job);
        std::vector<std::thread> users;
        std::atomic<int> num_told{0};
        for (const bool closes : {false, true, true})
            users.emplace_back([&, closes] {
                const auto left = closes ? engine.close() : engine.cancel();
                num_told += left == std::vector<std::size_t>{7};
            });
        for (std::thread& user : users) user.join();
        if (num_told != 1 || job->is_done()) return false;
    }
    records->may_return = true;
    return job->wait_for(std::chrono::seconds(10));  // into memory that is still there
}

// False where one of them gets something else than the others.
bool encode_in_many_threads(const Noise& records) {
    std::vector<std::int64_t> samples(3000);
    std::iota(samples.begin(), samples.end(), 0);
    std::vector<EncodedCrops> made(4);
    std::vector<std::thread> threads;
    for (EncodedCrops& crops : made) threads.emplace_back([&] { crops = encoded_crops(records, samples, kRule, true); });
    for (std::thread& thread : threads) thread.join();
    std::size_t num_spliced = 0;
    for (std::size_t row = 0; row < samples.size(); ++row) {
        const EncodedCrop& expected = made[0].rows[row];
        num_spliced += !expected.memory.empty();
        for (const EncodedCrops& crops : made)
            if (!std::ranges::equal(crops.rows[row].image, expected.image)) return false;
    }
    return num_spliced > 0;
}

}  // namespace

int main() {
    const auto records = std::make_shared<Noise>();
    std::mt19937 random(2);
    int num_batches = 0;
    for (int round = 0; round < 60; ++round) {
        std::vector<std::vector<std::uint8_t>> slots(4, std::vector<std::uint8_t>(64 * 3 * 24 * 24));
        Engine engine(records, 1 + round % 5, false);
        std::vector<std::shared_ptr<BatchJob>> jobs;
        const CropRule rule{CropKind::random_resized, 24, 1, static_cast<std::uint32_t>(round), {0.08, 1, 0.75, 4.0 / 3}, 1, 0,
                            Interpolation::bilinear};
        for (auto& slot : slots) {
            std::vector<std::int64_t> samples(64);
            for (auto& sample : samples) sample = random() % 3000;  // of 1000 records
            jobs.push_back(std::make_shared<BatchJob>(samples, rule, slot.data()));
            engine.submit(jobs.back());
        }
        if (round % 3 == 0) engine.cancel();
        if (round % 3 == 1) continue;  // the engine ends while it works
        for (std::size_t number = 0; number < jobs.size(); ++number) {
            while (!jobs[number]->wait_for(std::chrono::milliseconds(100))) continue;
            for (const Failure& failure : jobs[number]->failures())
                if (!may_fail(jobs[number]->samples()[static_cast<std::size_t>(failure.row)] % 1000)) return 1;
            for (std::uint8_t& byte : slots[number]) byte ^= 1;  // what a consumer does with its batch
            ++num_batches;
        }
    }
    for (int round = 0; round < 20; ++round) use_from_many_threads(records);
    if (!leaves_a_blocked_read_behind()) return 2;
    if (!encode_in_many_threads(*records)) return 3;
    std::printf("%d batches awaited\n", num_batches);
    return 0;
}
