// Everything of the C++ host.
#pragma once

#include "pipeline.hpp"
