# cmake -D CLANG_FORMAT= -D ROOT= -P this: every C++ file of the tree is as clang-format lays it out.
execute_process(COMMAND git ls-files --cached --others --exclude-standard "*.hpp" "*.cpp"
  WORKING_DIRECTORY ${ROOT} OUTPUT_VARIABLE files RESULT_VARIABLE status ERROR_QUIET)
if(NOT status EQUAL 0)  # no work tree, as in an unpacked archive
  file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/include/*.hpp ${ROOT}/src/*.[hc]pp
    ${ROOT}/tests/*.[hc]pp ${ROOT}/examples/*.[hc]pp)
endif()
string(STRIP "${files}" files)
string(REPLACE "\n" ";" files "${files}")
set(present "")
foreach(file IN LISTS files)
  if(EXISTS ${ROOT}/${file})
    list(APPEND present ${file})
  endif()
endforeach()
execute_process(COMMAND ${CLANG_FORMAT} --dry-run -Werror ${present}
  WORKING_DIRECTORY ${ROOT} RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "the files above are not formatted; ./dev format mends them")
endif()
