// Read logits once: the largest logit of each tile, and the sums of weights that `ops.tiles` makes.
//
// The eager operators of `ops.tiles` are the specification, and every number here is theirs to the
// last bit: 2^x is the polynomial of PyTorch's vector library (SLEEF, u10), the sums go in the order
// of PyTorch's cascade, and the last few columns of a row, for which PyTorch leaves its vector loop,
// take the exponential of the C library.  `ops.fused_cpu` compares both before this is used.
//
// LANES: floats in a vector of PyTorch's sum.  STEP: columns that its vector loop of 2^x takes.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

namespace {

constexpr int64_t TILE = 1024, WIDE = 4 * LANES, GROUP = 16;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// Vectors of eight: GCC and Clang make of them what the processor has.
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Words __attribute__((vector_size(32)));
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));

inline Floats eight(const float* x) {
    Floats v;
    std::memcpy(&v, x, sizeof v);
    return v;
}

inline Floats eight(const uint16_t* x) {  // bfloat16
    Halves halves;
    std::memcpy(&halves, x, sizeof halves);
    Bits bits = __builtin_convertvector(halves, Bits) << 16;
    Floats v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

inline float wide(float x) { return x; }

inline float wide(uint16_t bits) {  // bfloat16
    uint32_t word = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &word, 4);
    return x;
}

template <typename To, typename From>
inline To cast(From from) {  // the same bits
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline Floats fused(Floats a, Floats b, float c) {
    Floats sum;
    for (int l = 0; l < 8; l++) sum[l] = fmaf(a[l], b[l], c);
    return sum;
}

inline Floats exp2_of(Floats x) {  // of x <= 0, or NaN
    const float shift = 12582912.0f;  // 1.5 * 2^23: to add it rounds to a whole number
    Floats shifted = x + shift, rest = x - (shifted - shift);
    Words n = cast<Words>(shifted) - cast<Words>(Floats{} + shift), half = n >> 1;
    Floats p = fused(Floats{} + 0.1535920892e-3f, rest, 0.1339262701e-2f);
    p = fused(p, rest, 0.9618384764e-2f);
    p = fused(p, rest, 0.5550347269e-1f);
    p = fused(p, rest, 0.2402264476e+0f);
    p = fused(p, rest, 0.6931471825e+0f);
    p = fused(p, rest, 1.0f);
    p *= cast<Floats>(cast<Bits>(half + 127) << 23);
    p *= cast<Floats>(cast<Bits>(n - half + 127) << 23);
    return x < -150.0f ? Floats{} : p;
}

// Sum `width` numbers (a multiple of 32) in the order of PyTorch's cascade.
float sum_of(const float* x, int64_t width) {
    float near[WIDE] = {0}, far[WIDE] = {0};
    int64_t rows = width / WIDE, row = 0;
    for (; row + GROUP <= rows; row += GROUP) {
        for (int64_t j = 0; j < GROUP; j++)
            for (int l = 0; l < WIDE; l++) near[l] += x[(row + j) * WIDE + l];
        for (int l = 0; l < WIDE; l++) far[l] += near[l], near[l] = 0.0f;
    }
    for (; row < rows; row++)
        for (int l = 0; l < WIDE; l++) near[l] += x[row * WIDE + l];
    for (int l = 0; l < WIDE; l++) near[l] += far[l];
    for (int64_t i = rows * WIDE; i < width; i += LANES)
        for (int l = 0; l < LANES; l++) near[l] += x[i + l];
    for (int k = 1; k < 4; k++)
        for (int l = 0; l < LANES; l++) near[l] += near[k * LANES + l];
    float sum = 0.0f;
    for (int l = 0; l < LANES; l++) sum += near[l];
    return sum;
}

struct Sums {  // of one law
    const float* inverse;  // [rows], log2(e) / temperature
    float* tiles;  // [rows, tiles]
    float* products;  // [rows, tiles], of weights and exponents; null: not asked for
};

struct Reading {
    const void* logits;
    const int64_t* rows;  // [count], or null for all in order
    int64_t count, stride, vocab, tiles, width;
    const int64_t* banned;  // ascending ids < vocab that may not be drawn
    int64_t bans;
    float* tile_max;  // [count, tiles]
    float* peak;  // [count]
    int64_t* best;  // [count], or null
    float* second;  // [count], or null
    float* only;  // [count, width], the logits of the only tile, or null
    Sums laws[2];
    int64_t law_count;
};

// Return the largest of `n` logits, NaN if one is.
template <typename T>
float largest(const T* x, int64_t n) {
    Floats most[4];
    Words odd[4] = {};
    for (auto& lanes : most) lanes = Floats{} - INFINITE;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int k = 0; k < 4; k++) {
            Floats v = eight(x + i + 8 * k);
            most[k] = most[k] > v ? most[k] : v;
            odd[k] |= v != v;
        }
    float found = -INFINITE;
    int32_t any = 0;
    for (int k = 0; k < 4; k++)
        for (int l = 0; l < 8; l++) {
            found = found > most[k][l] ? found : most[k][l];
            any |= odd[k][l];
        }
    for (; i < n; i++) {
        float v = wide(x[i]);
        found = found > v ? found : v;
        any |= v != v;
    }
    return any ? std::numeric_limits<float>::quiet_NaN() : found;
}

// Add up what the lanes of a cascade hold, in the order of PyTorch.
float total_of(const Floats* lanes) {
    float flat[WIDE], sum = 0.0f;
    std::memcpy(flat, lanes, sizeof flat);
    for (int k = 1; k < 4; k++)
        for (int l = 0; l < LANES; l++) flat[l] += flat[k * LANES + l];
    for (int l = 0; l < LANES; l++) sum += flat[l];
    return sum;
}

// Write the sums of a whole tile.
template <typename T, bool PRODUCTS>
void sum_tile(const T* x, float peak, float inverse, float* sum, float* product) {
    constexpr int K = WIDE / 8;
    Floats sums[K] = {}, products[K] = {};
    for (int64_t group = 0; group < TILE; group += GROUP * WIDE) {
        for (int k = 0; k < K; k++) {
            Floats near = {}, near_product = {};
            for (int64_t i = group + 8 * k; i < group + GROUP * WIDE; i += WIDE) {
                Floats exponent = (eight(x + i) - peak) * inverse, weight = exp2_of(exponent);
                near += weight;
                if (PRODUCTS) near_product += weight == 0.0f ? Floats{} : weight * exponent;
            }
            sums[k] += near;
            products[k] += near_product;
        }
    }
    *sum = total_of(sums);
    if (PRODUCTS) *product = total_of(products);
}

// Write the weights of `n` logits, and the exponents they have.
void weigh(const float* x, int64_t n, int64_t vectored, float peak, float inverse, float* exponent,
           float* weight) {
    for (int64_t i = 0; i < n; i++) exponent[i] = (x[i] - peak) * inverse;
    for (int64_t i = 0; i < vectored; i += 8) {
        Floats found = exp2_of(eight(exponent + i));
        std::memcpy(weight + i, &found, sizeof found);
    }
    for (int64_t i = vectored; i < n; i++) weight[i] = exp2f(exponent[i]);
}

template <typename T>
void read_row(const Reading& r, int64_t place) {
    const T* x = static_cast<const T*>(r.logits) + (r.rows ? r.rows[place] : place) * r.stride;
    float* most = r.tile_max + place * r.tiles;
    float copy[TILE], exponent[TILE], weight[TILE];
    // A tile with ids that may not be drawn is copied without them.
    auto tile_of = [&](int64_t tile, int64_t n, const int64_t*& ban) {
        const int64_t *end = r.banned + r.bans, first = tile * TILE;
        if (ban == end || *ban >= first + n) return false;
        for (int64_t i = 0; i < n; i++) copy[i] = wide(x[first + i]);
        for (; ban != end && *ban < first + n; ban++) copy[*ban - first] = -INFINITE;
        return true;
    };
    auto size_of = [&](int64_t tile) {
        int64_t left = r.vocab - tile * TILE;
        return left < TILE ? left : TILE;
    };
    float peak = -INFINITE;
    bool lawful = true;
    const int64_t* ban = r.banned;
    for (int64_t tile = 0; tile < r.tiles; tile++) {
        int64_t n = size_of(tile);
        bool copied = tile_of(tile, n, ban);
        most[tile] = copied ? largest(copy, n) : largest(x + tile * TILE, n);
        lawful &= most[tile] == most[tile];
        peak = peak > most[tile] ? peak : most[tile];
    }
    peak = lawful ? peak : std::numeric_limits<float>::quiet_NaN();
    r.peak[place] = peak;
    if (r.only) {
        float* out = r.only + place * r.width;
        ban = r.banned;
        bool copied = tile_of(0, r.vocab, ban);
        for (int64_t i = 0; i < r.vocab; i++) out[i] = copied ? copy[i] : wide(x[i]);
        for (int64_t i = r.vocab; i < r.width; i++) out[i] = -INFINITE;
    }
    if (r.best) {
        int64_t tile = 0;
        while (tile + 1 < r.tiles && most[tile] != peak) tile++;
        int64_t n = size_of(tile), at = 0;
        ban = r.banned;
        while (ban != r.banned + r.bans && *ban < tile * TILE) ban++;
        if (!tile_of(tile, n, ban))
            for (int64_t i = 0; i < n; i++) copy[i] = wide(x[tile * TILE + i]);
        while (at + 1 < n && copy[at] != peak) at++;
        r.best[place] = tile * TILE + at;
        if (r.second) {
            copy[at] = -INFINITE;
            float other = largest(copy, n);
            for (int64_t t = 0; t < r.tiles; t++)
                if (t != tile && most[t] > other) other = most[t];
            r.second[place] = other;
        }
    }
    for (int64_t law = 0; law < r.law_count; law++) {
        const Sums& sums = r.laws[law];
        float inverse = sums.inverse[place];
        ban = r.banned;
        for (int64_t tile = 0; tile < r.tiles; tile++) {
            int64_t n = size_of(tile);
            bool last = tile + 1 == r.tiles, copied = tile_of(tile, n, ban);
            int64_t width = last ? r.width : TILE, vectored = last ? n - r.vocab % STEP : n;
            float* sum = sums.tiles + place * r.tiles + tile;
            float* product = sums.products ? sums.products + place * r.tiles + tile : nullptr;
            if (!copied && vectored == TILE) {
                if (product)
                    sum_tile<T, true>(x + tile * TILE, peak, inverse, sum, product);
                else
                    sum_tile<T, false>(x + tile * TILE, peak, inverse, sum, product);
                continue;
            }
            if (!copied)
                for (int64_t i = 0; i < n; i++) copy[i] = wide(x[tile * TILE + i]);
            weigh(copy, n, vectored, peak, inverse, exponent, weight);
            for (int64_t i = n; i < width; i++) weight[i] = exponent[i] = 0.0f;
            *sum = sum_of(weight, width);
            if (product) {  // 0 * (-inf) counts as 0
                for (int64_t i = 0; i < width; i++)
                    weight[i] = weight[i] == 0.0f ? 0.0f : weight[i] * exponent[i];
                *product = sum_of(weight, width);
            }
        }
    }
}

template <typename T>
void read_all(const Reading& r, int64_t threads) {
    auto share = [&](int64_t begin, int64_t end) {
        for (int64_t place = begin; place < end; place++) read_row<T>(r, place);
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; t++)
        others.emplace_back(share, r.count * t / threads, r.count * (t + 1) / threads);
    share(0, r.count / threads);
    for (auto& other : others) other.join();
}

}  // namespace

extern "C" void dlm_read(const Reading* reading, int bfloat16, int64_t threads) {
    if (bfloat16)
        read_all<uint16_t>(*reading, threads);
    else
        read_all<float>(*reading, threads);
}
