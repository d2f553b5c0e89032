"""Growth: small networks that grow while they train, N of them in lockstep.

Importing this package makes the environment known to Gymnasium, which asks for exactly that, and
loads nothing heavier: torch comes with the first `gymnasium.make_vec("esper/Growth-v0", ...)`.
"""

import gymnasium

ENVIRONMENT_ID = "esper/Growth-v0"

if ENVIRONMENT_ID not in gymnasium.registry:  # a reload of this package must not warn
    gymnasium.register(id=ENVIRONMENT_ID, vector_entry_point="esper.growth.env:GrowthVectorEnv")
