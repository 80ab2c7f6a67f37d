# cmake -D READELF= -D PROGRAM= [-D NEEDED=regex] [-D FORBIDDEN=regex] -P this: the shared libraries
# that a program asks for.
execute_process(COMMAND ${READELF} -d ${PROGRAM} OUTPUT_VARIABLE dynamic COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "\\(NEEDED\\)[^\n]*" libraries "${dynamic}")
if(NOT libraries)
  message(FATAL_ERROR "${PROGRAM} asks for no library at all: is it a program?")
endif()
if(DEFINED NEEDED AND NOT libraries MATCHES "${NEEDED}")
  message(FATAL_ERROR "${PROGRAM} does not ask for ${NEEDED}: ${libraries}")
endif()
if(DEFINED FORBIDDEN AND libraries MATCHES "${FORBIDDEN}")
  message(FATAL_ERROR "${PROGRAM} asks for ${FORBIDDEN}: ${libraries}")
endif()
message(STATUS "${libraries}")
