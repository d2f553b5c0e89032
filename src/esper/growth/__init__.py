"""Growth: small networks that grow while they train, N of them in lockstep.

Importing this package only registers the environment with Gymnasium; torch is loaded by the first
`gymnasium.make("esper/Growth-v0")` or `gymnasium.make_vec`. In a process that has not imported this
package, the name `"esper.growth:esper/Growth-v0"` imports it.
"""

import gymnasium

ENVIRONMENT_ID = "esper/Growth-v0"

if ENVIRONMENT_ID not in gymnasium.registry:  # a reload of this package must not warn
    gymnasium.register(
        id=ENVIRONMENT_ID,
        entry_point="esper.growth.environment.single_env:GrowthEnv",
        vector_entry_point="esper.growth.environment.env:GrowthVectorEnv",
    )
