// C++: exceptions through frames of another file's code, containers, streams, regular expressions.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <numeric>
#include <random>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Guard { int &n; ~Guard() { n++; } };
static int depth(int n, int &unwound) {
    Guard g{unwound};
    if (n == 0) throw std::runtime_error("the bottom");
    return depth(n - 1, unwound) + 1;
}
int main() {
    int unwound = 0, caught = 0;
    for (int n = 0; n < 300; n++) try { depth(n % 40, unwound); } catch (const std::exception &) { caught++; }
    std::cout << "unwound " << unwound << " caught " << caught << "\n";
    std::mt19937_64 random(42);
    std::vector<uint64_t> v(200000);
    std::generate(v.begin(), v.end(), random);
    auto w = v; std::sort(w.begin(), w.end()); std::stable_sort(v.begin(), v.end(), std::greater<>());
    std::reverse(v.begin(), v.end());
    std::cout << "sorted " << (v == w) << " " << std::accumulate(v.begin(), v.end(), uint64_t{0}) << "\n";
    std::map<std::string, int> words;
    for (int n = 0; n < 50000; n++) words[std::to_string(random() % 5000)]++;
    int64_t sum = 0; for (auto &[k, c] : words) sum += std::stoll(k) * c;
    std::cout << "words " << words.size() << " " << sum << "\n";
    std::regex r("(\\w+)@(\\w+)\\.(com|org)");
    std::string text; for (int n = 0; n < 300; n++) text += "user" + std::to_string(n) + "@host" + std::to_string(n * 7) + (n % 3 ? ".com " : ".org ");
    int found = 0; for (std::sregex_iterator i(text.begin(), text.end(), r), e; i != e; ++i) found += (*i)[2].length();
    std::cout << "found " << found << "\n";
    std::normal_distribution<double> normal(5, 2); std::ostringstream out; out.precision(10);
    double mean = 0; for (int n = 0; n < 100000; n++) mean += normal(random) / 100000;
    out << mean; std::cout << "mean " << out.str() << "\n";
}
