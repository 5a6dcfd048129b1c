/* retarget IN.ll OUT.s: compiles LLVM's intermediate code for aarch64 with the code generator that rustc brings along,
 * whatever machine it was made for. Where no standard library for aarch64 is installed this is how to see what the
 * compiler makes of our loads, stores and fences there: up to here nothing depends on the machine but the layout of
 * the standard library's types. Declarations as in llvm-c, which keeps them stable. */
#include <stdio.h>
#include <stdlib.h>

typedef struct Context *Context;
typedef struct Module *Module;
typedef struct Buffer *Buffer;
typedef struct Target *Target;
typedef struct Machine *Machine;

Context LLVMContextCreate(void);
int LLVMCreateMemoryBufferWithContentsOfFile(const char *path, Buffer *buffer, char **message);
int LLVMParseIRInContext(Context context, Buffer buffer, Module *module, char **message);
void LLVMInitializeAArch64TargetInfo(void);
void LLVMInitializeAArch64Target(void);
void LLVMInitializeAArch64TargetMC(void);
void LLVMInitializeAArch64AsmPrinter(void);
int LLVMGetTargetFromTriple(const char *triple, Target *target, char **message);
Machine LLVMCreateTargetMachine(Target target, const char *triple, const char *cpu, const char *features, int level,
                                int relocation, int model);
void LLVMSetTarget(Module module, const char *triple);
void *LLVMCreateTargetDataLayout(Machine machine);
void LLVMSetModuleDataLayout(Module module, void *layout);
int LLVMTargetMachineEmitToFile(Machine machine, Module module, const char *path, int kind, char **message);

enum { LEVEL_DEFAULT = 2, RELOCATION_PIC = 2, MODEL_DEFAULT = 0, KIND_ASSEMBLY = 0 };

static void must(int failed, const char *message)
{
    if (failed) {
        fprintf(stderr, "retarget: %s\n", message);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    const char *triple = "aarch64-unknown-linux-gnu";
    char *message = "";
    Buffer buffer;
    Module module;
    Target target;
    must(argc != 3, "retarget IN.ll OUT.s");
    must(LLVMCreateMemoryBufferWithContentsOfFile(argv[1], &buffer, &message), message);
    must(LLVMParseIRInContext(LLVMContextCreate(), buffer, &module, &message), message);
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    must(LLVMGetTargetFromTriple(triple, &target, &message), message);
    Machine machine = LLVMCreateTargetMachine(target, triple, "generic", "+v8a,+outline-atomics", LEVEL_DEFAULT,
                                              RELOCATION_PIC, MODEL_DEFAULT);
    LLVMSetTarget(module, triple);
    LLVMSetModuleDataLayout(module, LLVMCreateTargetDataLayout(machine));
    must(LLVMTargetMachineEmitToFile(machine, module, argv[2], KIND_ASSEMBLY, &message), message);
    return 0;
}
