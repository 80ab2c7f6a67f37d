# cmake -D PREFIX= -D FILES=a;b -P this
foreach(file IN LISTS FILES)
  if(NOT EXISTS ${PREFIX}/${file})
    message(FATAL_ERROR "${PREFIX}/${file} was not installed")
  endif()
endforeach()
