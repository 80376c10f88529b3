# Fails if a file that is compiled for an instruction set defines a symbol that the linker could take for the whole program:
# an inline function or a template outside an anonymous namespace, compiled for processors that have the set alone.
#   cmake -DNM=nm "-DOBJECTS=a.o;b.o" -P symbols.cmake
foreach(object ${OBJECTS})
  execute_process(COMMAND ${NM} -C --defined-only --extern-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  foreach(symbol ${symbols})
    if(NOT symbol MATCHES "^[0-9a-f]+ [DRB] tapernet::[a-z0-9_]+_kernels$")
      message(FATAL_ERROR "${object} defines a symbol beside its table of kernels: ${symbol}")
    endif()
  endforeach()
endforeach()
