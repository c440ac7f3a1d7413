// A parsed template. Built once by the parser, read by every Render call at the same time.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_AST_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/value.h"

namespace spillway::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Operator {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

enum class LoopAttribute {
  kIndex,
  kIndex0,
  kRevIndex,
  kRevIndex0,
  kFirst,
  kLast,
  kLength,
  kPrevItem,
  kNextItem,
  kDepth,
  kDepth0,
};

struct Expression {
  enum class Kind {
    kLiteral,    // literal
    kName,       // name
    kList,       // operands
    kTuple,      // operands
    kDict,       // operands: key, value, key, value, ...
    kAttribute,  // operands[0].name
    kItem,       // operands[0][operands[1]]
    kSlice,      // operands[0][operands[1]:operands[2]:operands[3]], absent ones null
    kLoop,       // loop.<loop_attribute>
    kLoopCycle,  // loop.cycle(operands...)
    kCall,       // name(operands..., named...): a macro or a function
    kBuiltin,    // a filter, a test or a method: operands[0] is what it is applied to, then its parameters in
                 // order, absent ones null, then surplus arguments where it takes any
    kNot,        // operands[0]
    kNegate,     // operands[0]
    kAnd,        // operands[0], operands[1]
    kOr,         // operands[0], operands[1]
    kArithmetic,   // operands[0] <operators[0]> operands[1]
    kConcatenate,  // operands[0] ~ operands[1] ~ ...
    kCompare,      // operands[0] <operators[0]> operands[1] <operators[1]> operands[2] ...
    kConditional,  // operands[1] if operands[0] else operands[2], which may be null
  };

  Kind kind;
  int line = 0;
  int height = 1;  // of the tree below and including this node
  std::string name;
  Value literal;
  LoopAttribute loop_attribute{};
  const Builtin* builtin = nullptr;
  std::vector<Operator> operators;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Statement;
using Block = std::vector<Statement>;

// What `set` and `for` assign to: one or several names, or an attribute of a namespace.
struct Target {
  std::vector<std::string> names;
  bool is_tuple = false;
  std::string attribute;  // not empty: names[0].attribute
};

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // [parameters], null for those without
  Block body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kPrint,     // expression
    kIf,        // branches, the last with a null condition when there is an `else`
    kFor,       // target, expression, condition (may be null), body, otherwise
    kSet,       // target, expression
    kSetBlock,  // target, body
    kWith,      // assignments, body
    kMacro,     // macro
    kScope,     // body: a tag that only marks its content, as {% generation %} does
    kBreak,
    kContinue,
  };

  Kind kind;
  int line = 0;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  Target target;
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  std::vector<std::pair<std::string, ExpressionPtr>> assignments;
  Block body;
  Block otherwise;
  std::unique_ptr<Macro> macro;
};

struct Program {
  Block body;
};

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_AST_H_
