#include "suites.h"
CU_TestInfo listener_managed_tests[] = { CU_TEST_INFO_NULL, };
