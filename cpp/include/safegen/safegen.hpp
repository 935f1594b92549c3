// Everything of the C++ host: the names of pipeline.hpp, and what they do.
#pragma once

#include "detail/draw.hpp"
#include "pipeline.hpp"
