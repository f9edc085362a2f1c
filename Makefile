# pgpoll: HTTP long polling over PostgreSQL. `make help` lists what can be made.

VERSION := 0.1.0
PORT    ?= 8080
RUN     ?= .run
WORKERS ?= 64
MODE    ?= managed
PREFIX  ?= /usr/local
DESTDIR ?=
# SANITIZE=address,undefined builds one that watches itself, in a directory of its own.
SANITIZE ?=
SUITES  ?= unit sanitized sql e2e e2e-direct

SANITIZERS := address,undefined
comma    := ,
build_of  = build$(if $(1),/$(subst $(comma),-,$(1)))
BUILD    := $(call build_of,$(SANITIZE))

CC     := $(if $(filter default,$(origin CC)),gcc,$(CC))
CFLAGS ?= -g $(if $(SANITIZE),-O1,-O2)

# One short line a step, none with -s; V=1 shows the commands.
Q    := $(if $(V),,@)
note  = $(if $(V)$(findstring s,$(firstword -$(MAKEFLAGS))),,@echo '  $(1)' $@)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wconversion \
            -Wwrite-strings $(if $(filter true,$(CI)),-Werror)
ifdef SANITIZE
GUARDS  := -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
LDGUARDS := $(GUARDS)
else
GUARDS  := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
LDGUARDS := -pie -Wl,-z,relro,-z,now
endif

# Asked when first needed, and once: on a fresh machine the packages are there only by then.
LIBRARIES  := json-c libpq
pkg_config  = $(or $(shell pkg-config $(1)),$(error missing libraries: run `make packages`))
PKG_CFLAGS  = $(eval PKG_CFLAGS := $(call pkg_config,--cflags $(LIBRARIES)))$(PKG_CFLAGS)
PKG_LIBS    = $(eval PKG_LIBS := $(call pkg_config,--libs $(LIBRARIES)))$(PKG_LIBS)

COMPILE = $(CC) -std=c11 -D_GNU_SOURCE -DPGPOLL_VERSION='"$(VERSION)"' $(CPPFLAGS) -Isrc -Ifcgi $(PKG_CFLAGS) $(WARNINGS) -fno-common $(GUARDS) $(CFLAGS)
LINK    = $(CC) $(CFLAGS) $(LDGUARDS) $(LDFLAGS)

objects  = $(patsubst %.c,$(BUILD)/%.o,$(1))
MAINS   := fcgi/pgpoll.c fcgi/pgpoll_stats.c
LIBRARY := $(BUILD)/libpgpoll.a
SRC     := $(call objects,$(wildcard src/*.c))
FCGI    := $(call objects,$(filter-out $(MAINS),$(wildcard fcgi/*.c)))
UNIT    := $(call objects,$(wildcard tests/unit/*.c))
BENCH_OBJECTS := $(call objects,$(wildcard tests/bench/*.c))
OBJECTS := $(SRC) $(FCGI) $(UNIT) $(BENCH_OBJECTS) $(call objects,$(MAINS))
PROGRAMS := $(BUILD)/pgpoll.fcgi $(BUILD)/pgpoll-stats.fcgi

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: all unit-runner bench-programs packages packages-run packages-test packages-bench run start stop reload psql test bench \
        lint lint-format lint-cppcheck lint-shell lint-tidy install clean help

all: $(PROGRAMS) ## builds the programs (SANITIZE=address,undefined: a watched build beside the ordinary one)

$(BUILD)/pgpoll.fcgi: $(BUILD)/fcgi/pgpoll.o $(FCGI) $(LIBRARY)
$(BUILD)/pgpoll-stats.fcgi: $(BUILD)/fcgi/pgpoll_stats.o $(FCGI) $(LIBRARY)
$(PROGRAMS):
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ -lfcgi $(PKG_LIBS)

$(LIBRARY): $(SRC)
	$(call note,AR  )
	$(Q)rm -f $@ && $(AR) rcs $@ $^

unit-runner: $(BUILD)/tests/unit/run
$(BUILD)/tests/unit/run: $(UNIT) $(LIBRARY)
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ -lcunit $(PKG_LIBS)

bench-programs: $(BUILD)/tests/bench/storm $(BUILD)/tests/bench/herd
$(BUILD)/tests/bench/storm: $(BUILD)/tests/bench/storm.o $(BUILD)/tests/bench/http.o
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ -lpq
$(BUILD)/tests/bench/herd: $(BUILD)/tests/bench/herd.o
	$(call note,LINK)
	$(Q)$(LINK) -o $@ $^ -lfcgi

$(OBJECTS): $(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call note,CC  )
	$(Q)$(COMPILE) -MMD -MP -c -o $@ $<

-include $(OBJECTS:.o=.d)

# Packages are installed only for a goal that promises it; then they come before anything else.
packages: packages-run ## installs the Debian packages that building and running need (root or sudo)
packages-run:
	@deploy/packages build run
packages-test:
	@deploy/packages build run test
packages-bench:
	@deploy/packages build run bench
$(OBJECTS): | $(if $(filter bench,$(MAKECMDGOALS)),packages-bench) $(if $(filter test,$(MAKECMDGOALS)),packages-test,$(if $(filter run start packages,$(MAKECMDGOALS)),packages-run))

run: packages-run all ## everything in the foreground, Ctrl-C stops it: PORT=8080 RUN=.run WORKERS=64
start: packages-run all ## the same in the background; `. $(RUN)/env` to work with it
reload: all ## fresh workers, of a rebuilt program too; no poll is lost
stop: ## stops what `make start` or `make run` started; its data stay
psql: ## psql in its database
run start stop reload psql: export RUN := $(RUN)
run start stop reload psql: export PORT := $(PORT)
run start stop reload psql: export WORKERS := $(WORKERS)
run start stop reload psql: export MODE := $(MODE)
run start stop reload psql: export BUILD := $(BUILD)
run start stop reload psql:
	@deploy/local $@

test: packages-test all unit-runner bench-programs ## all tests, or SUITES="unit sanitized sql e2e e2e-direct"
	@$(MAKE) SANITIZE=$(SANITIZERS) unit-runner
	@UNIT=$(BUILD)/tests/unit/run SANITIZED=$(call build_of,$(SANITIZERS))/tests/unit/run tests/run $(SUITES)

bench: packages-bench all bench-programs ## measures it here, beside Nchan and plain INSERTs: BENCH="latency publish" for parts, QUICK=1, KEEP=NAME
	@/usr/bin/python3 -B tests/bench/run

C_FILES := $(wildcard src/*.c fcgi/*.c tests/unit/*.c tests/bench/*.c)
lint: lint-format lint-cppcheck lint-shell lint-tidy ## clang-format, cppcheck, shellcheck, clang-tidy (their packages: deploy/packages lint)
lint-format:
	clang-format --dry-run -Werror $(C_FILES) $(wildcard src/*.h fcgi/*.h tests/unit/*.h tests/bench/*.h)
lint-cppcheck:
	cppcheck --quiet --enable=warning,performance,portability --error-exitcode=2 --inline-suppr -Isrc -Ifcgi $(C_FILES)
lint-shell:
	shellcheck -x -P SCRIPTDIR deploy/local deploy/packages tests/run .ci/run $(wildcard tests/sql/run)
# One file at a time: with several, clang-tidy 14 finds uninitialised va_lists that are none. Of a clean file it only says how many
# warnings it hides.
TIDY_FILES := $(wildcard src/*.c fcgi/*.c)
lint-tidy: $(TIDY_FILES:%=lint-tidy-%)
$(TIDY_FILES:%=lint-tidy-%): lint-tidy-%:
	@said=$$(clang-tidy --quiet $* -- $(filter-out -g -O% -D_FORTIFY%,$(wordlist 2,99,$(COMPILE))) 2>&1) || { echo "$$said"; exit 1; }

install: all ## installs under DESTDIR and PREFIX=/usr/local: programs in lib/pgpoll, SQL and the console in share/pgpoll, examples in share/doc
	$(Q)install -d $(DESTDIR)$(PREFIX)/lib/pgpoll $(DESTDIR)$(PREFIX)/share/pgpoll/sql/functions \
	    $(DESTDIR)$(PREFIX)/share/pgpoll/www $(DESTDIR)$(PREFIX)/share/doc/pgpoll/examples/lighttpd
	$(Q)install $(PROGRAMS) $(DESTDIR)$(PREFIX)/lib/pgpoll
	$(Q)install -m 644 $(wildcard sql/*.sql) $(DESTDIR)$(PREFIX)/share/pgpoll/sql
	$(Q)install -m 644 $(wildcard sql/functions/*.sql) $(DESTDIR)$(PREFIX)/share/pgpoll/sql/functions
	$(Q)install -m 644 $(wildcard README.md) LICENSE $(DESTDIR)$(PREFIX)/share/doc/pgpoll
	$(Q)install -m 644 deploy/console/* examples/long_polling_client.mjs deploy/openapi.json $(DESTDIR)$(PREFIX)/share/pgpoll/www
	$(Q)install examples/long_polling_client.py $(DESTDIR)$(PREFIX)/share/doc/pgpoll/examples
	$(Q)install -m 644 $(wildcard examples/*.mjs examples/*.mts) $(DESTDIR)$(PREFIX)/share/doc/pgpoll/examples
	$(Q)install -m 644 deploy/lighttpd/50-pgpoll.conf $(DESTDIR)$(PREFIX)/share/doc/pgpoll/examples/lighttpd

clean: ## removes what was built
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | expand -t 10
