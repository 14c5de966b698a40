# Every line that begins with "## " is what `make help` prints. Commands are run from this folder.

FOLDERS := 01_blocking 02_nonblocking_busyloop 03_select 04_poll 05_epoll 06_selector_callbacks
# Each is the same in every stage, from the first that has it.
HEADERS := calls.hpp clients.hpp deadlines.hpp listener.hpp narration.hpp options.hpp \
           outbox.hpp service.hpp signals.hpp text.hpp waits.hpp
NUMBERS := 1 2 3 4 5 6

# Sanitized programs live in a folder of their own: the two kinds are never mixed up.
SANITIZED := $(filter 1,$(SAN))
BUILD     := $(if $(SANITIZED),build/san,build)
SERVERS   := $(FOLDERS:%=$(BUILD)/%)
# make splits its targets at spaces, and the recipes below do not quote them.
ifneq ($(words $(BUILD))$(findstring ',$(BUILD))$(findstring ",$(BUILD)),1)
$(error BUILD=$(BUILD): a folder without spaces and quotes in its name is wanted)
endif
WARNINGS  := -Wall -Wextra -Wpedantic -Wshadow -Wconversion
# Not vptr: that check opens a pipe, and reports an error where the tests leave it no descriptor.
SANITIZE  := -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined \
             -fno-omit-frame-pointer
COMPILE   := $(strip $(CXX) -std=c++20 -O2 -g $(WARNINGS) $(if $(SANITIZED),$(SANITIZE)) \
              $(CPPFLAGS) $(CXXFLAGS) $(LDFLAGS))

# A Python without bytecode files left in the tree; PYTHON is looked for once, when it is needed.
export PYTHONDONTWRITEBYTECODE := 1
PYTHON = $(eval PYTHON := $(shell python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' \
    2>/dev/null && echo python3 || echo /usr/bin/python3))$(PYTHON)

# One word for the shell, whatever is in it: a file's name may have spaces and quotes.
quoted = '$(subst ','\'',$1)'

# For a build within a recipe: on all CPUs, unless a -j was given, which it then shares.
PARALLEL = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 2))

.DELETE_ON_ERROR:
.SECONDEXPANSION:
.PHONY: all servers help run-all test try sync clean truth demo compare replay soak bugs variants \
        hunt bench calls \
        programs FORCE
.DEFAULT_GOAL := all
FORCE: ;

# A stage is one file, compiled and linked in one go; the .d file remembers its headers.
$(SERVERS): $(BUILD)/%: %/server.cpp $(BUILD)/compiled-with
	$(COMPILE) -MMD -MP -MF $@.d -MT $@ -o $@ $<

-include $(wildcard $(BUILD)/*.d)
# A source that such a file names, and that has since moved, is no error: all of it is built anew.
tests/%.cpp tests/%.hpp: ;

# Another compiler or other flags make everything anew: this file holds the command last used.
ifneq ($(shell cat $(BUILD)/compiled-with 2>/dev/null),$(COMPILE))
$(BUILD)/compiled-with: FORCE
endif
$(BUILD)/compiled-with:
	$(if $(shell mkdir -p $(@D) 2>/dev/null && [ -w $(@D) ] && echo yes),,\
	    $(error cannot write to $(BUILD): build elsewhere, with BUILD=/tmp/build behind the target))
	@printf '%s\n' $(call quoted,$(COMPILE)) > $@

help:
	@sed -n 's/^##$$//p; s/^## //p' Makefile

# Between make and a program: Ctrl-C ends both, and make does not call that an error.
foreground = exec $(PYTHON) -IS tests/tools/foreground.py

# The word N of a list: stage N, and the one before it.
stage  = $(word $*,$(FOLDERS))
before = $(word $*,none $(FOLDERS))

# ---- Start here ----------------------------------------------------------------------------------

## Start here

## make demo         the tour: one story live through all six stages, in plain words
##                   (ARGS=--ask: predict what each stage does, then see)
demo: all
	@SAN='$(SAN)' $(foreground) $(PYTHON) -m tests.tools.demo $(ARGS)

## make run-3        start stage 3 and watch it narrate  (ARGS="-e 7000 -t 0.5", ARGS=-h)
$(NUMBERS:%=run-%): run-%: $$(BUILD)/$$(stage) FORCE
	@$(foreground) $< $(ARGS)

## make client-3     talk to stage 3                     (SERVICE=chat, ARGS="--port 7000")
SERVICE := echo
$(NUMBERS:%=client-%): client-%: FORCE
	$(if $(filter-out echo greet chat,$(SERVICE)),\
	    $(error there is no service '$(SERVICE)': SERVICE is echo, greet or chat))
	@$(foreground) $(PYTHON) -m tests.tools.client $* $(SERVICE) $(ARGS)

## make run-all      start all six side by side; Ctrl-C stops them together
run-all: all
	@$(foreground) $(PYTHON) -m tests.tools.run_all $(SERVERS) -- $(ARGS)

# ---- Read ----------------------------------------------------------------------------------------

##
## Read

## make diff-3       what changed from stage 2 to stage 3
$(patsubst %,diff-%,$(filter-out 1,$(NUMBERS))): diff-%: FORCE
	@$(PYTHON) -m tests.tools.diff $(before) $(stage)

## make debug-4      stage 4 in gdb: stops where the loop is about to wait, and says what to type
##                   (TUI=1: with the text interface, ARGS="-e 7000")
DEBUG = $(BUILD:%/san=%)/debug
$(NUMBERS:%=debug-%): debug-%: FORCE
	@$(MAKE) -s --no-print-directory SAN= BUILD=$(DEBUG) CXXFLAGS=-O0 $(DEBUG)/$(stage)
	@$(foreground) $(PYTHON) -m tests.debug gdb $(DEBUG)/$(stage) \
	    $(if $(filter 1,$(TUI)),--tui) -- $(ARGS)

## make trace-4      the loop's own system calls, one a line, as stage 4 makes them (strace)
##                   (ARGS="-e 7000")
$(NUMBERS:%=trace-%): trace-%: $$(BUILD)/$$(stage) FORCE
	@$(foreground) $(PYTHON) -m tests.debug strace $< -- $(ARGS)

## make truth        what select, poll and epoll say of a descriptor, state by state
##                   (ARGS="full refused": these rows, ARGS=--json: for programs)
truth: $(BUILD)/truth
	@$(foreground) $< $(ARGS)

$(BUILD)/truth: tests/truth/truth.cpp $(BUILD)/compiled-with
	$(COMPILE) -MMD -MP -MF $@.d -MT $@ -o $@ $<

# ---- Build your own ------------------------------------------------------------------------------

##
## Build your own

## make blank-4      stage 4 with holes in my/04_poll: write it yourself, and make try BLANK=4
##                   (LEVEL=1: only the wait, 2: each step, 3: all; AGAIN=1: once more)
$(NUMBERS:%=blank-%): blank-%: FORCE
	$(if $(filter-out 1 2 3,$(LEVEL)),$(error there is no level '$(LEVEL)': LEVEL is 1, 2 or 3))
	@$(PYTHON) -m tests.blank $* --level $(or $(LEVEL),2) $(if $(filter 1,$(AGAIN)),--again)

# With the flags of all programs, in the student's own folder.
$(FOLDERS:%=my/%/server): %/server: %/server.cpp $$(wildcard $$*/*.hpp) $(BUILD)/compiled-with
	$(COMPILE) -o $@ $<
$(FOLDERS:%=my/%/server.cpp):
	$(error there is no $@: make blank-$(patsubst 0%,%,$(firstword $(subst _, ,$(notdir $(@D))))) \
	    writes it)

## make try          which rungs of a ladder does your own server climb? In any language:
##                   make try SERVER="./mine {port}"       (SERVICE=chat, STAGE=4, RUNG=slow,
##                   ALL=1: do not stop, LIST=1; PORT=7000: something that is running already;
##                   BLANK=4: what you have written into my/04_poll)
blank = $(if $(BLANK),$(if $(filter $(NUMBERS),$(BLANK)),my/$(word $(BLANK),$(FOLDERS))/server,\
            $(error there is no stage '$(BLANK)': stages are 1 to 6)))
option = -$(patsubst greet,g,$(patsubst chat,c,$(SERVICE:echo=e)))
try: $$(blank)
	@$(foreground) $(PYTHON) -m tests.ladder \
	    --server $(call quoted,$(if $(BLANK),$(blank) -q $(option) {port},$(SERVER))) \
	    --port '$(or $(PORT),0)' --service '$(SERVICE)' --stage '$(or $(BLANK),$(STAGE),0)' \
	    --rung '$(RUNG)' $(if $(filter 1,$(ALL)),--all) $(if $(LIST),--list) \
	    $(if $(BLANK),--again 'BLANK=$(BLANK)') $(ARGS)

## make hunt         a server with one known mistake, and you are not told which: find it
##                   (SEED=7: that one again, ARGS="-e 7000"; REVEAL=1: which it was)
hunt:
	@$(foreground) $(PYTHON) -m tests.bugs.hunt $(if $(REVEAL),--reveal) --seed '$(or $(SEED),0)' \
	    -- $(ARGS)

# ---- Compare and measure -------------------------------------------------------------------------

##
## Compare and measure

## make compare      every question to every stage: a matrix here, pictures in build/compare.html
##                   (STAGES="1 3" SCENARIO=second_client: one story side by side; FORMAT=json)
compare: all
	@SAN='$(SAN)' $(foreground) $(PYTHON) -m tests.compare --stages '$(STAGES)' \
	    --scenario '$(SCENARIO)' --format '$(or $(FORMAT),text)' $(ARGS)

## make replay       a story step by step: the line of source, the call, the kernel's queues, of all
##                   stages side by side: build/replay.html  (STORY=second_client STAGES="1 3";
##                   BUG=half_close: beside the right server; FORMAT=text)
replay: FORCE
	@$(foreground) $(PYTHON) -m tests.replay --story '$(STORY)' --stages '$(STAGES)' \
	    --bug '$(BUG)' --format '$(or $(FORMAT),html)' $(ARGS)

## make bench        what each mechanism costs, in figures (QUICK=1: in less than a minute;
##                   VARIANTS=all: what comes after the six, too; RIVALS="name=./program":
##                   beside your own; ARGS=-h tells more)
MEASURING := $(BUILD)/load $(BUILD)/floor
$(MEASURING) $(BUILD)/calls: $(BUILD)/%: tests/bench/%.cpp $(BUILD)/compiled-with
	$(COMPILE) -MMD -MP -MF $@.d -MT $@ -o $@ $<
bench: all $(MEASURING)
	@$(foreground) $(PYTHON) -m tests.bench $(if $(QUICK),--quick) --variants '$(VARIANTS)' $(ARGS)

## make calls        what one system call takes, each timed alone (ARGS="-t 1": longer)
calls: $(BUILD)/calls
	@$(foreground) $< $(ARGS)

# ---- For those who change this suite -------------------------------------------------------------

##
## For those who change this suite

## make              build all six servers into build/   (CXX=clang++, CXXFLAGS=-O0, SAN=1)
all: $(BUILD)/compiled-with
	@$(MAKE) --no-print-directory $(PARALLEL) servers
servers: $(SERVERS)
	@:

## make test         the same scenarios against every stage (ARGS="-k greet", STAGE=4, SAN=1)
##                   or against your own program:         make test STAGE=4 SERVER=./mine
# A pytest is looked for before anything is compiled: that takes a minute, and would be too early.
test:
	@sh tests/pytest.sh --find
	$(if $(SERVER),,@$(MAKE) --no-print-directory $(PARALLEL) programs)
	$(if $(SERVER)$(SANITIZED),,@$(PYTHON) -m tests.replay --build || :)
	@SAN='$(SAN)' STAGE='$(STAGE)' SERVER=$(call quoted,$(SERVER)) sh tests/pytest.sh $(ARGS)

programs: $(SERVERS) $(BUILD)/truth $(BUILD)/load $(BUILD)/floor $(BUILD)/calls
	@:

## make soak         all kinds of clients at once, at random, for ten minutes
##                   (SECONDS=60, STAGE=5, SEED=4711, SAN=1)
soak: $(if $(SERVER),,all)
	@SAN='$(SAN)' $(foreground) $(PYTHON) -m tests.soak --seconds $(or $(SECONDS),600) \
	    --seed $(or $(SEED),0) --stage '$(STAGE)' --server $(call quoted,$(SERVER))

## make bugs         known mistakes, each put into a stage: which scenarios catch them?
##                   (ARGS="short_send sigpipe"; QUICK=1: plays only those that must; LIST=1)
bugs:
	@$(foreground) $(PYTHON) -m tests.bugs $(if $(LIST),--list) $(if $(QUICK),--quick) $(ARGS)

## make bug-sigpipe  play with a broken server           (ARGS="-e 7000")
BUGS := $(sort $(basename $(notdir $(wildcard tests/bugs/*.patch))))
$(BUGS:%=bug-%): bug-%: FORCE
	@$(foreground) $(PYTHON) -m tests.bugs --run $* -- $(ARGS)

## make variants     what comes after the six: threads, workers, io_uring and others serve as well
##                   (ARGS="threads uring": these; LIST=1; SAN=1, SAN=thread: sanitized; QUICK=1:
##                   only scenarios in which somebody ends, or is slow)
variants:
	@SAN='$(SAN)' $(foreground) $(PYTHON) -m tests.bugs --variants $(if $(LIST),--list) \
	    $(if $(QUICK),--quick) $(ARGS)

## make variant-threads  play with one                   (ARGS="-e 7000")
## make diff-threads     what it changes on its stage
ADDED := $(sort $(basename $(notdir $(wildcard tests/variants/*.patch tests/variants/*.cpp))))
$(ADDED:%=variant-%): variant-%: FORCE
	@SAN='$(SAN)' $(foreground) $(PYTHON) -m tests.bugs --run $* -- $(ARGS)
$(ADDED:%=diff-%): diff-%: FORCE
	@$(PYTHON) -m tests.bugs --diff $*

## make sync         copy the headers that all stages share over the later stages' copies
sync:
	@for header in $(HEADERS); do first=; for stage in $(FOLDERS); do \
	    if [ -z "$$first" ]; then [ ! -e $$stage/$$header ] || first=$$stage/$$header; \
	    else cmp -s $$first $$stage/$$header || cp -v $$first $$stage/ || exit; fi; \
	done; done

## make clean        remove build/, the only folder that is written to (my/ is yours, and stays)
clean:
	rm -rf build

# ---- Bad words ---------------------------------------------------------------------------------

run-% client-% debug-% trace-% blank-%: FORCE
	$(error there is no stage '$*': stages are 1 to 6)
diff-%: FORCE
	$(error there is no '$@': diff-2 to diff-6 show what changed from the stage before, diff-X what \
	    the variant X changes on its stage: there are $(ADDED))
bug-%: FORCE
	$(error there is no bug '$*': there are $(BUGS))
variant-%: FORCE
	$(error there is no variant '$*': there are $(ADDED))
.DEFAULT:
	$(error there is no '$@' to make: 'make help' lists what there is)
