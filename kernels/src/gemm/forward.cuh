// out[rows, n] = epilogue(prologue(x)[rows, k] · weightᵀ[k, n])           (`segface_kernels::gemm::GemmSpec`)
//
// x and out row-major, weight packed. A block makes a tile of Shape::ROWS × Shape::COLUMNS; grid (tiles of rows, tiles of
// columns). FLOPs 2·rows·n·k. x is read once per tile of columns, weights once per tile of rows, out written once.
#pragma once
#include "cuda/epilogue.cuh"

namespace segface::gemm {

// Rows as they are.
template <class S, int K>
struct Rows {
    using E = typename S::E;
    static constexpr bool TRANSFORMS = false;
    const E *x;
    int row0, rows;
    const E *row[S::SLOTS];
    bool there[S::SLOTS];

    __device__ __forceinline__ void prepare(int i, int r) {
        there[i] = row0 + r < rows;
        row[i] = x + u64(there[i] ? row0 + r : 0) * K;
    }
    // Where the chunk at column k lies.
    __device__ __forceinline__ const E *at(int i, int k) const { return there[i] ? row[i] + k : nullptr; }
    __device__ __forceinline__ void copy(int i, u32 target, int k) const {
        const bool inside = there[i] && (K % S::K == 0 || k < K);
        const E *source = row[i] + k;
        copy_async(target, inside ? source : x, inside ? 16 : 0);
    }
};

// Rows times a factor per image and column (squeeze-excite).
template <class S, int K>
struct GatedRows : Rows<S, K> {
    using E = typename S::E;
    static constexpr bool TRANSFORMS = true;
    const float *gate;
    int rows_per_gate;
    const float *gates[S::SLOTS];

    __device__ __forceinline__ void prepare(int i, int r) {
        Rows<S, K>::prepare(i, r);
        gates[i] = gate + u64(this->there[i] ? (this->row0 + r) / rows_per_gate : 0) * K;
    }
    __device__ __forceinline__ void transform(int i, Chunk &chunk, int k) const {
        if (!this->there[i] || (K % S::K != 0 && k >= K)) return;
        float values[CHUNK<E>], factors[CHUNK<E>];
        unpack<E>(chunk, values);
        load_floats(factors, gates[i] + k);
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) values[v] *= factors[v];
        chunk = pack<E>(values);
    }
};

// Rows after a layer norm over k, whatever their source: `Base` says by `at(i, k)` where a chunk of row i lies, null for zeros.
//
// The lanes that copy a row first read it for its moments, about the mean of the row's first columns. These are S::K of the K
// columns, so (first mean − mean)² is at most K / S::K times the variance and the subtraction below loses no more than a few bits,
// however large the mean is. In f32 those bits count: a second sweep goes about the mean itself, and sums keep what they lose, as
// the many equal zeros of a patch beyond the map's edge would round the same way every time.
template <class S, int K, class Base = Rows<S, K>>
struct NormedRows : Base {
    using E = typename S::E;
    static constexpr bool TRANSFORMS = true;
    const float *weight, *bias;
    float eps;
    // A normed number is x·scale + shift.
    float scale[S::SLOTS], shift[S::SLOTS];

    NormedRows() = default;
    __device__ __forceinline__ NormedRows(const Base &base, const float *weight, const float *bias, float eps)
        : Base(base), weight(weight), bias(bias), eps(eps) {}
    __device__ __forceinline__ void prepare(int i, int r) {
        Base::prepare(i, r);
        float about = 0;
        if (const E *at = column(0) < K ? this->at(i, column(0)) : nullptr) {
            float values[CHUNK<E>];
            unpack<E>(load_chunk(at), values);
#pragma unroll
            for (int v = 0; v < CHUNK<E>; v++) about += values[v];
        }
        about = reduce(about) / float(K < S::K ? K : S::K);
        if constexpr (sizeof(E) == 4) {
            const float mean = about + sweep(i, [=](float x, float sum) { return x - about + sum; });
            const auto square = [=](float x, float sum) { return fmaf(x - mean, x - mean, sum); };
            scale[i] = rsqrtf(sweep(i, square) + eps);
            shift[i] = -mean * scale[i];
        } else {
            float squares = 0;
            const float off = sweep(i, [&](float x, float sum) {
                squares = fmaf(x - about, x - about, squares);
                return x - about + sum;
            });
            scale[i] = rsqrtf(fmaxf(reduce(squares) / float(K) - off * off, 0.0f) + eps);
            shift[i] = -(about + off) * scale[i];
        }
    }
    // This thread's first column of a step.
    static __device__ __forceinline__ int column(int step) { return step * S::K + int(threadIdx.x) % S::ROW_CHUNKS * CHUNK<E>; }
    // The mean over row i of what `add` adds to a sum for each number.
    template <class Add>
    __device__ __forceinline__ float sweep(int i, const Add &add) const {
        float sum = 0, lost = 0;
#pragma unroll 8
        for (int step = 0; step < ceil_divide(K, S::K); step++) {
            const int k = column(step);
            if (K % S::K != 0 && k >= K) continue;
            const E *at = this->at(i, k);
            float values[CHUNK<E>], part = 0;
            unpack<E>(at ? load_chunk(at) : zero_chunk(), values);
#pragma unroll
            for (int v = 0; v < CHUNK<E>; v++) part = add(values[v], part);
            if constexpr (sizeof(E) == 4) {
                const float wanted = part - lost, next = sum + wanted;
                lost = next - sum - wanted;
                sum = next;
            } else {
                sum += part;
            }
        }
        return reduce(sum) / float(K);
    }
    static __device__ __forceinline__ float reduce(float x) {
#pragma unroll
        for (int d = 1; d < S::ROW_CHUNKS; d *= 2) x += __shfl_xor_sync(~0u, x, d);
        return x;
    }
    __device__ __forceinline__ void transform(int i, Chunk &chunk, int k) const {
        if (!this->there[i] || (K % S::K != 0 && k >= K)) return;
        float values[CHUNK<E>], weights[CHUNK<E>], biases[CHUNK<E>];
        unpack<E>(chunk, values);
        load_floats(weights, weight + k);
        load_floats(biases, bias + k);
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) values[v] = fmaf(fmaf(values[v], scale[i], shift[i]), weights[v], biases[v]);
        chunk = pack<E>(values);
    }
};

// Bytes of dynamic shared memory of `forward`.
template <class S, class Epi>
constexpr int bytes() {
    return S::BYTES > finish_bytes<S, Epi::NORM>() ? S::BYTES : finish_bytes<S, Epi::NORM>();
}

template <class S, int N, int K, class Source, class Epi>
__device__ __forceinline__ void forward(Source &source, const u8 *weight, const Epi &epilogue, typename S::E *out, int rows) {
    const u32 buffer = shared_address(shared_memory);
    const int row0 = int(blockIdx.x) * S::ROWS, n0 = int(blockIdx.y) * S::COLUMNS;
    source.row0 = row0;
    source.rows = rows;
    typename S::Sums sums;
    Product<S, Source>::run(sums, source, weight, K, N, n0, buffer);
    finish<S>(sums, epilogue, out, row0, rows, n0, N, buffer, [](int row) { return row; });
}

}  // namespace segface::gemm
