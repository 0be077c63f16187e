// What attend.cuh needs beside `Plain<P>`'s atom: probabilities and values as fragments of P.
#pragma once
#include "cuda/plain.cuh"
#include "window_attention/attend.cuh"

namespace segface::window_attention {

template <class P>
struct Mixing<Plain<P>> : Mixing<P> {};

}  // namespace segface::window_attention
