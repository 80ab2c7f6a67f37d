# Turns sql/NNNN_name.sql into a C++ source with one raw string each, so that the library carries its
# migrations.
function(pillion_embed_sql output)
  set(entries "")
  foreach(file IN LISTS ARGN)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    get_filename_component(stem ${file} NAME_WE)
    string(REGEX MATCH "^([0-9]+)_(.*)$" matched ${stem})
    if(NOT matched)
      message(FATAL_ERROR "${file}: a migration is named NNNN_name.sql")
    endif()
    math(EXPR version "${CMAKE_MATCH_1} + 0")
    set(name ${CMAKE_MATCH_2})
    file(READ ${file} text)
    string(APPEND entries "    {${version}, \"${name}\", R\"pillionsql(${text})pillionsql\"},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${output} @ONLY CONTENT
"#include \"migrate/embedded.hpp\"

namespace pillion::migrate {

const std::vector<EmbeddedFile>& embeddedFiles() {
  static const std::vector<EmbeddedFile> files{
@entries@  };
  return files;
}

}  // namespace pillion::migrate
")
endfunction()
