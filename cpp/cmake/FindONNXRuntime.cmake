# ONNX Runtime's C++ headers and shared library, as ONNXRuntime::ONNXRuntime.
#
# Looked for in ONNXRUNTIME_ROOT, then among the system's packages (CMAKE_PREFIX_PATH too), then, for the
# library alone, in the Python package onnxruntime of Python3_EXECUTABLE or of the python3 on the path.
if(ONNXRuntime_LIBRARY AND NOT EXISTS "${ONNXRuntime_LIBRARY}")
  unset(ONNXRuntime_LIBRARY CACHE)  # the Python package has been updated since
endif()
find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_cxx_api.h
          HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT
          PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
find_library(ONNXRuntime_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT PATH_SUFFIXES lib lib64)

if(NOT ONNXRuntime_LIBRARY)
  find_program(Python3_EXECUTABLE python3)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c "import importlib.util as u; print(u.find_spec('onnxruntime').submodule_search_locations[0])"
    OUTPUT_VARIABLE _package OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  file(GLOB _libraries "${_package}/capi/libonnxruntime.so.*")
  if(_libraries)
    # the wheel has the library under its full version alone, programs ask for its SONAME
    list(GET _libraries 0 _library)
    set(_folder "${CMAKE_BINARY_DIR}/onnxruntime")
    file(MAKE_DIRECTORY "${_folder}")
    file(CREATE_LINK "${_library}" "${_folder}/libonnxruntime.so.1" SYMBOLIC)
    set(ONNXRuntime_LIBRARY "${_folder}/libonnxruntime.so.1" CACHE FILEPATH "ONNX Runtime's shared library" FORCE)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime
  REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "set ONNXRUNTIME_ROOT, install libonnxruntime-dev, or run cpp/fetch_dependencies.sh DIR and pass -DCMAKE_PREFIX_PATH=DIR/usr")

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  add_library(ONNXRuntime::ONNXRuntime SHARED IMPORTED)
  set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRuntime_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${ONNXRuntime_INCLUDE_DIR}")
endif()
