#include "convert/best_table.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace fastvit::scan {

TableSpec best_table(std::span<const std::uint32_t, 256> frequencies) {
    struct Leaf {
        std::uint32_t frequency;
        std::uint8_t symbol;
    };
    std::vector<Leaf> leaves;
    for (int symbol = 0; symbol < 256; ++symbol)
        if (frequencies[symbol]) leaves.push_back({frequencies[symbol], static_cast<std::uint8_t>(symbol)});
    if (leaves.empty()) leaves.push_back({1, 0});  // some decoders want a table to have a code
    std::sort(leaves.begin(), leaves.end(), [](const Leaf& a, const Leaf& b) {
        return a.frequency != b.frequency ? a.frequency < b.frequency : a.symbol > b.symbol;
    });
    // The rarest node of all takes the code that is all ones. Nodes come in ascending order from leaves and from pairs.
    const std::size_t num_leaves = leaves.size() + 1, num_nodes = 2 * num_leaves - 1;
    std::vector<std::uint64_t> weights(num_nodes, 0);
    for (std::size_t number = 1; number < num_leaves; ++number) weights[number] = leaves[number - 1].frequency;
    std::vector<std::size_t> parents(num_nodes, 0);
    std::size_t leaf = 0, pair = num_leaves;
    for (std::size_t node = num_leaves; node < num_nodes; ++node) {
        for (int child = 0; child < 2; ++child) {
            const bool take_leaf = leaf < num_leaves && (pair == node || weights[leaf] <= weights[pair]);
            const std::size_t taken = take_leaf ? leaf++ : pair++;
            weights[node] += weights[taken];
            parents[taken] = node;
        }
    }
    std::vector<int> depths(num_nodes, 0);
    std::vector<int> counts(std::max<std::size_t>(num_leaves + 1, 17), 0);
    for (std::size_t node = num_nodes - 1; node-- > 0;) {
        depths[node] = depths[parents[node]] + 1;
        if (node < num_leaves) ++counts[static_cast<std::size_t>(depths[node])];
    }
    for (std::size_t length = counts.size() - 1; length > 16; --length) {
        while (counts[length] > 0) {
            std::size_t shorter = length - 2;
            while (counts[shorter] == 0) --shorter;
            counts[length] -= 2, ++counts[length - 1], counts[shorter + 1] += 2, --counts[shorter];
        }
    }
    std::size_t longest = 16;
    while (counts[longest] == 0) --longest;
    --counts[longest];
    TableSpec spec;
    std::copy_n(counts.begin(), 17, spec.counts.begin());
    for (auto one = leaves.rbegin(); one != leaves.rend(); ++one) spec.symbols.push_back(one->symbol);
    return spec;
}

}  // namespace fastvit::scan
