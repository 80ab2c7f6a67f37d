# PILLION_SANITIZE=address (with undefined behaviour) or thread: for every target, since what is not
# built with it is not seen. `./dev sanitize` builds and runs such trees.
if(NOT PILLION_SANITIZE)
  return()
endif()
if(PILLION_SANITIZE STREQUAL "address")
  set(sanitizers -fsanitize=address,undefined)
elseif(PILLION_SANITIZE STREQUAL "thread")
  set(sanitizers -fsanitize=thread)
else()
  message(FATAL_ERROR "PILLION_SANITIZE is '${PILLION_SANITIZE}'; it takes address or thread")
endif()
add_compile_options(${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1)
add_link_options(${sanitizers})
# Under instrumentation GCC 12 warns of variables that are set on every path.
add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
