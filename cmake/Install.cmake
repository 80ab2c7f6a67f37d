# `cmake --install`: libraries, headers, the program, the migrations, and a CMake package.
option(PILLION_INSTALL "Make the install rules" ${PROJECT_IS_TOP_LEVEL})
if(NOT PILLION_INSTALL)
  return()
endif()
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/pillion)
# pillion::amqp is nobody's to link, but the static libraries of relay and inbox need it.
install(TARGETS pillion_outbox pillion_amqp pillion_relay pillion_inbox pillion_all
  EXPORT pillionTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET pillion_cli)
  set_target_properties(pillion_cli PROPERTIES EXPORT_NAME cli)
  install(TARGETS pillion_cli EXPORT pillionTargets RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(EXPORT pillionTargets NAMESPACE pillion:: DESTINATION ${package_dir})

configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/pillionConfig.cmake.in ${PROJECT_BINARY_DIR}/pillionConfig.cmake
  INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/pillionConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${PROJECT_BINARY_DIR}/pillionConfig.cmake ${PROJECT_BINARY_DIR}/pillionConfigVersion.cmake
  DESTINATION ${package_dir})

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/pillion DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.hpp")
file(GLOB migrations CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/sql/*.sql)
install(FILES ${migrations} DESTINATION ${CMAKE_INSTALL_DATADIR}/pillion/sql)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
