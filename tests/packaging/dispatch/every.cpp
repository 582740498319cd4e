// SPDX-License-Identifier: BSD-3-Clause
#include <heed/heed.hpp>
#include <heed/level.hpp>

#include "../every_verb.hpp"

template <class T> bool use_all(const every_verb<T>& x) { return every_verb<T>::use(x); }
template bool use_all(const every_verb<float>&);
template bool use_all(const every_verb<double>&);
